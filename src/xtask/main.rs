//! Development tasks: `cargo run -p xtask -- TASK`.
//!
//! `schema` writes the tables of facts about Kubernetes' built-in kinds; `schema --check` compares them instead.

mod schema;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["schema"] => schema::write(),
        ["schema", "--check"] => schema::check(),
        _ => anyhow::bail!("usage: xtask schema [--check]"),
    }
}
