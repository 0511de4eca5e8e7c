//! What is under way of a batch.

use std::collections::VecDeque;

/// Things by their place in the batch, as far as there are any between the first and the last place that has one.
#[derive(Debug)]
pub(super) struct Window<T> {
    first: usize,
    things: VecDeque<Option<T>>,
}

impl<T> Window<T> {
    pub(super) fn new() -> Self {
        Self { first: 0, things: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, place: usize, thing: T) {
        if self.things.is_empty() {
            self.first = place;
        }
        while place < self.first {
            self.things.push_front(None);
            self.first -= 1;
        }
        while self.first + self.things.len() <= place {
            self.things.push_back(None);
        }
        self.things[place - self.first] = Some(thing);
    }

    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.things.get(place.checked_sub(self.first)?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.things.get_mut(place.checked_sub(self.first)?)?.as_mut()
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let removed = self.things.get_mut(place.checked_sub(self.first)?)?.take();
        while matches!(self.things.front(), Some(None)) {
            self.things.pop_front();
            self.first += 1;
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_found_at_its_place_until_it_is_removed() {
        let mut window = Window::new();
        for place in [3, 4, 9] {
            window.insert(place, place);
        }
        assert_eq!((window.get(3), window.get(5), window.get(10), window.get(0)), (Some(&3), None, None, None));
        assert_eq!((window.remove(3), window.remove(3), window.remove(9)), (Some(3), None, Some(9)));
        // One that was taken out, and comes back.
        window.insert(2, 2);
        assert_eq!((window.get(2), window.get(4), window.get(9)), (Some(&2), Some(&4), None));
        assert_eq!((window.remove(2), window.remove(4), window.remove(4)), (Some(2), Some(4), None));
        window.insert(7, 7);
        assert_eq!(window.get(7), Some(&7));
    }
}
