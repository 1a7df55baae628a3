//! The node's one nft table, programmed by netlink in one transaction per change.
//!
//! Layout: a verdict map from address, protocol and port (and one from protocol and port, for this node's own
//! addresses) to a chain per policy; a chain picks a number and looks the endpoint up in one data map of all endpoints.
//! The affinity map lives on through changes, so clients keep their endpoints.

mod expr;
mod program;
mod wire;

pub use program::{TableConfig, transaction};
pub use wire::{Batch, NftError, Socket};

/// Removes a table; there need be none.
pub fn remove(table: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    program::create_table(&mut batch, table);
    program::delete_table(&mut batch, table);
    Socket::open()?.send(batch)
}
