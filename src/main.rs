//! The binary: everything is in `app`.

fn main() -> std::process::ExitCode {
    app::main()
}
