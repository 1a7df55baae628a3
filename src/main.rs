fn main() -> anyhow::Result<()> {
    app::main()
}
