//! `AlwaysAdmit`: says yes to everything (`plugin/pkg/admission/admit`). Off unless asked for, and deprecated.

use api::Gvr;
use api::admission::{AdmissionPlugin, Operation};

pub(crate) struct AlwaysAdmit;

impl AdmissionPlugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _: Operation, _: &Gvr, _: &str) -> bool {
        true
    }
}
