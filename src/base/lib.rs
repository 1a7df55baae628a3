//! What every room may use: time, shutdown, back-off, error chains and stable hashes.
//!
//! Nothing here knows Kubernetes, storage or the network.

pub mod backoff;
pub mod clock;
pub mod error;
pub mod hash;
pub mod shutdown;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use error::chain;
pub use hash::{fnv32a, fnv64a};
pub use shutdown::Shutdown;
