//! For the tests of services: an emitter that records, a transport in memory, a check of the promises, and one of emitters.
//!
//! | to test | use |
//! |---|---|
//! | what a service emits | [`MockEmitter`] |
//! | what a service does when the broker fails | a [`Producer`](crate::Producer) on a [`MemoryTransport`] that is taken down, refuses or hangs |
//! | the service as a whole, without Kafka and a database server | a [`Producer`](crate::Producer) on what is [`Embedded`] |
//! | that nothing was lost or reordered | [`verify`] |
//! | an [`Emitter`](crate::Emitter) of your own, a wrapper say | [`conformance`] |

pub mod conformance;
#[cfg(all(feature = "kafka", feature = "sqlite"))]
mod embedded;
mod mock;
pub mod verify;

pub use crate::transport::memory::{Fate, MemoryTransport, Submission};
#[cfg(all(feature = "kafka", feature = "sqlite"))]
pub use embedded::Embedded;
pub use mock::{Answer, Attempt, Emission, MockEmitter};
