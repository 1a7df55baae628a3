//! Reads what Kubernetes says of its own types (Go sources, OpenAPI, discovery) and writes it as tables of facts:
//! `types.txt`, `resources.txt` and `internal.txt` in `src/kinds/facts`. The tables hold names, types and flags, no prose.
//!
//! The sources are Go modules pinned by their go.sum hashes, so the same tables come out on every machine.

mod go;
mod internal;
mod modules;
mod resources;
mod spec;
mod types;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use modules::Modules;
use spec::Spec;

/// Writes the tables.
pub fn write() -> anyhow::Result<()> {
    for (path, text) in tables()? {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Fails unless the tables are what [`write`] would write.
pub fn check() -> anyhow::Result<()> {
    for (path, text) in tables()? {
        let found = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if found != text {
            bail!("{} is not what the pinned modules say: run `cargo run -p xtask -- schema`", path.display());
        }
    }
    Ok(())
}

fn tables() -> anyhow::Result<[(PathBuf, String); 3]> {
    let modules = Modules::fetch()?;
    let spec = Spec::read(&modules)?;
    let resources = resources::read(&modules, &spec)?;
    let types = types::write(&modules, &spec, &resources)?;
    let facts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kinds/facts");
    Ok([
        (facts.join("types.txt"), types),
        (facts.join("resources.txt"), resources::print(&resources)),
        (facts.join("internal.txt"), internal::write(&modules)?),
    ])
}
