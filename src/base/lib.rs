//! What every room may use: time, shutdown, back-off and error chains.
//!
//! Nothing here knows Kubernetes, storage or the network.

pub mod backoff;
pub mod clock;
pub mod error;
pub mod shutdown;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use error::chain;
pub use shutdown::Shutdown;
