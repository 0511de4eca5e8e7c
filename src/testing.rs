//! For the tests of services: an emitter that records, a transport in memory, a check of the promises, and one of emitters.
//!
//! | to test | use |
//! |---|---|
//! | what a service emits | [`MockEmitter`] |
//! | what a service does when the broker fails | a [`Producer`](crate::Producer) on a [`MemoryTransport`] that is taken down, refuses or hangs |
//! | that nothing was lost or reordered | [`verify`] |
//! | an [`Emitter`](crate::Emitter) of your own, a wrapper say | [`conformance`] |

pub mod conformance;
mod mock;
pub mod verify;

pub use crate::transport::memory::{Fate, MemoryTransport, Submission};
pub use mock::{Answer, Attempt, Emission, MockEmitter};
