//! Boolean flags as upstream's programs read them (pflag's `boolValue`): `--flag`, `--flag=true`, `--flag=0`; what stands
//! behind a space is another argument.

use std::any::TypeId;

use clap::{Arg, ArgAction, Command};

/// A command whose boolean flags, and those of its commands, are read so.
pub(super) fn as_pflag(command: Command) -> Command {
    command.mut_args(with_value).mut_subcommands(as_pflag)
}

/// Whether a flag of such a command is a boolean one.
pub(super) fn is_boolean(argument: &Arg) -> bool {
    match argument.get_action() {
        ArgAction::SetTrue => true,
        ArgAction::Set => argument.get_value_parser().type_id() == TypeId::of::<bool>(),
        _ => false,
    }
}

fn with_value(argument: Arg) -> Arg {
    if !is_boolean(&argument) {
        return argument;
    }
    let argument = match argument.get_action() {
        ArgAction::SetTrue => argument.action(ArgAction::Set).default_value("false"),
        _ => argument,
    };
    argument.num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(parse).value_name("BOOL")
}

/// Go's `strconv.ParseBool`.
fn parse(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_boolean_takes_a_value_behind_an_equals_sign_or_none() {
        for name in ["disable-agent", "audit-webhook-truncate-enabled", "anonymous-auth", "enable-bootstrap-token-auth"]
        {
            let check = |flag: &str, want: Option<bool>| {
                let arguments = ["skiff", "server", flag];
                let found = as_pflag(super::super::Cli::command()).try_get_matches_from(arguments).ok();
                let id = name.replace('-', "_");
                let found = found.and_then(|m| m.subcommand()?.1.get_one::<bool>(&id).copied());
                assert_eq!(found, want, "{flag}");
            };
            check(&format!("--{name}"), Some(true));
            check(&format!("--{name}=true"), Some(true));
            check(&format!("--{name}=T"), Some(true));
            check(&format!("--{name}=false"), Some(false));
            check(&format!("--{name}=0"), Some(false));
            check(&format!("--{name}=yes"), None);
        }
    }

    #[test]
    fn what_follows_a_boolean_is_another_argument() {
        let command = as_pflag(super::super::Cli::command());
        assert!(command.try_get_matches_from(["skiff", "server", "--disable-agent", "false"]).is_err());
    }
}
