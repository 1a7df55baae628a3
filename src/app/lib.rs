//! The command line, the configuration and the wiring: which rooms exist, in which order they start and stop.

pub mod check;
pub mod credentials;
pub mod layout;
pub mod node_address;
pub mod options;

pub fn main() -> anyhow::Result<()> {
    Ok(())
}
