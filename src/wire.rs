//! The CloudEvents 1.0 Kafka binding: what an event looks like on the topic, and what a reader makes of it. Pure.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>

mod cloudevent;
pub(crate) mod dead_letter;
mod decode;
pub(crate) mod encode;
mod headers;

pub use cloudevent::to_cloudevent;
pub use dead_letter::{DEAD_LETTER_PREFIX, DeadLetter};
pub use decode::{CloudEvent, decode};
pub use encode::HeaderStyle;
pub use headers::{Headers, MalformedHeaders};

#[cfg(test)]
mod tests;
