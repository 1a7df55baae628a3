//! Tests of the binary with real containers. What starts and stops an instance is `instance.sh`; what a person does
//! with kubectl is `kubectl.sh`; both run by hand too.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A running skiff with its own folder, ports and ranges; gone when dropped.
pub struct Instance {
    dir: PathBuf,
    settings: Vec<(&'static str, String)>,
}

impl Instance {
    /// Starts one and waits until its node is ready. `number` (below 50) keeps instances apart.
    pub fn start(name: &str, number: u16) -> anyhow::Result<Self> {
        let instance = Self {
            dir: PathBuf::from(format!("/var/tmp/skiff-e2e-{name}")),
            settings: vec![
                ("NAME", name.to_owned()),
                ("NET", (70 + 2 * number).to_string()),
                ("PORT", (18_443 + number).to_string()),
                ("KUBELET_PORT", (18_543 + number).to_string()),
            ],
        };
        instance.script("clean")?;
        instance.script("start")?;
        Ok(instance)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("data/admin.kubeconfig")
    }

    /// The process id of the server.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let text = std::fs::read_to_string(self.dir.join("pid")).context("no server runs")?;
        Ok(text.trim().parse()?)
    }

    /// Starts the server again after it was stopped or killed.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.script("start").map(|_| ())
    }

    fn script(&self, what: &str) -> anyhow::Result<String> {
        let mut command = Command::new(here().join("instance.sh"));
        command.arg(what).arg(&self.dir).envs(self.settings.iter().map(|(name, value)| (*name, value.as_str())));
        output(&mut command)
    }

    /// Runs kubectl with arguments as on a command line; its standard output.
    pub fn kubectl(&self, arguments: &str) -> anyhow::Result<String> {
        let mut command = Command::new(tool("kubectl")?);
        output(command.env("KUBECONFIG", self.kubeconfig()).args(arguments.split_whitespace()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.script("clean") {
            eprintln!("cannot remove the instance: {error:#}");
        }
    }
}

/// This folder.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program of the kit.
pub fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let script = format!(". {}/kit/kit.env; command -v $KB/{name} $TB/{name} | head -1", here().display());
    let path = output(Command::new("bash").arg("-c").arg(script))?;
    let path = path.trim();
    if path.is_empty() {
        bail!("{name} is not built: run make setup-test");
    }
    Ok(path.into())
}

/// The standard output of a command that succeeds.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let result = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    if !result.status.success() {
        bail!("{command:?} failed:\n{}{}", what_failed(&text), end_of(&String::from_utf8_lossy(&result.stderr)));
    }
    Ok(text)
}

/// What the scripts here print where something is not as it should be, with the indented lines below it, and how they end.
fn what_failed(text: &str) -> String {
    let mut inside = false;
    let failures = text.lines().filter(|line| {
        inside = ["FAIL", "DIFFERENT", "NO LONGER"].iter().any(|word| line.starts_with(word))
            || (inside && line.starts_with(' '));
        inside
    });
    failures.map(|line| format!("{line}\n")).collect::<String>() + &end_of(text)
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_before_the_end() {
        let passes = "ok   more\n".repeat(20);
        let told = what_failed(&format!("ok   one\nFAIL two\n     because\nok   three\n{passes}22 passed, 1 failed\n"));
        assert!(told.starts_with("FAIL two\n     because\nok   more\n"), "{told}");
        assert!(told.ends_with("22 passed, 1 failed\n") && told.lines().count() == 17, "{told}");
    }
}
