//! The node's one nft table, programmed by netlink in one transaction per change.
//!
//! Layout: a verdict map from address, protocol and port (and one from protocol and port, for this node's own
//! addresses) to a chain per policy; a chain picks a number and looks the endpoint up in one data map of all endpoints.
//! The affinity map lives on through changes, so clients keep their endpoints. Pods that NetworkPolicies isolate are found
//! by address in two more maps, one for each direction.

mod expr;
mod guard;
mod program;
pub(crate) mod wire;

pub use program::{Change, TableConfig, transaction};
pub use wire::{Batch, NftError, Socket};

/// Removes a table; there need be none.
pub fn remove(table: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    program::create_table(&mut batch, table);
    program::delete_table(&mut batch, table);
    Socket::open()?.send(batch)
}
