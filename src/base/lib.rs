//! What every room may use: time, shutdown, back-off, error chains, stable hashes, percent-encoding, gRPC codes and histograms.
//!
//! Nothing here knows Kubernetes, storage or the network.

pub mod backoff;
pub mod clock;
pub mod error;
pub mod grpc;
pub mod hash;
pub mod histogram;
pub mod percent;
pub mod shutdown;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use error::chain;
pub use hash::{fnv32a, fnv64a};
pub use histogram::Histograms;
pub use percent::{percent_decode, percent_encode};
pub use shutdown::Shutdown;
