//! The command line and the wiring.

pub fn main() -> anyhow::Result<()> {
    Ok(())
}
