//! A kind's rules as a table of plain functions.

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{Propagation, RequestContext, Strategy};
use api::meta::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};

/// [`Strategy`] with one function for each step; what is not named keeps the generic behaviour.
pub(crate) struct Rules {
    pub default: fn(&mut Object),
    /// [`Strategy::default_at`].
    pub default_at: fn(&mut Object, jiff::Timestamp),
    /// [`Strategy::adds_to_names`].
    pub adds_to_names: bool,
    /// [`Strategy::default_read`].
    pub default_read: fn(&mut Object),
    /// [`Strategy::unconvertible`].
    pub unconvertible: fn(&Object) -> Option<String>,
    pub create: fn(&RequestContext<'_>, &mut Object),
    pub update: fn(&RequestContext<'_>, &mut Object, &Object),
    pub status_update: fn(&RequestContext<'_>, &mut Object, &Object),
    pub validate: fn(&Object) -> ErrorList,
    /// What else holds at creation only.
    pub validate_new: fn(&Object) -> ErrorList,
    /// `None`: the new object is validated as at creation.
    pub validate_update: Option<fn(&Object, &Object) -> ErrorList>,
    pub validate_status: fn(&Object, &Object) -> ErrorList,
    /// More of it, where no problem was found, that depends on what time it is.
    pub validate_status_at: Option<fn(&Object, &Object, jiff::Timestamp) -> ErrorList>,
    pub name: fn(&str, bool) -> Vec<String>,
    pub warnings: fn(&Object, Option<&Object>) -> Vec<String>,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    pub graceful: fn(&Object, Option<i64>) -> Option<i64>,
    pub propagation: Propagation,
    pub finalizers: fn(&Object) -> Vec<&str>,
    /// Changes of an object that has just got its deletionTimestamp.
    pub deletion: fn(&mut Object),
    pub keeps_status: bool,
    /// Finalizers that a deletion puts on an object first.
    pub deletion_finalizers: &'static [&'static str],
    /// Finalizers without a domain need not be Kubernetes' own (`validateKubeFinalizerName`).
    pub any_finalizers: bool,
    /// [`Strategy::deletes_itself`].
    pub deletes_itself: bool,
    /// [`Strategy::refuse_field`].
    pub field_refusal: fn(&str) -> Option<String>,
    /// [`Strategy::deletion_warning`].
    pub deletion_warning: Option<&'static str>,
    /// [`Strategy::deletes_unreadable`].
    pub deletes_unreadable: bool,
    /// [`Strategy::hidden_annotations`].
    pub hidden_annotations: &'static [&'static str],
    /// [`Strategy::status_has_table`].
    pub status_has_table: bool,
    /// [`Strategy::counts_empty`].
    pub counts_empty: bool,
}

impl Rules {
    pub const GENERIC: Self = Self {
        default: |_| {},
        default_at: |_, _| {},
        adds_to_names: true,
        default_read: |_| {},
        unconvertible: |_| None,
        create: |_, _| {},
        update: |_, _, _| {},
        status_update: |_, _, _| {},
        validate: |_| ErrorList::new(),
        validate_new: |_| ErrorList::new(),
        validate_update: None,
        validate_status: |_, _| ErrorList::new(),
        validate_status_at: None,
        name: api::validation::dns1123_subdomain,
        warnings: |_, _| Vec::new(),
        create_on_update: false,
        unconditional_update: true,
        graceful: |_, _| None,
        propagation: Propagation::Background,
        finalizers: |_| Vec::new(),
        deletion: |_| {},
        keeps_status: false,
        deletion_finalizers: &[],
        any_finalizers: false,
        deletes_itself: false,
        field_refusal: |_| None,
        deletion_warning: None,
        deletes_unreadable: true,
        hidden_annotations: &[],
        status_has_table: true,
        counts_empty: false,
    };

    fn finalizer_names(&self, object: &Object) -> ErrorList {
        const OWN: [&str; 3] = ["kubernetes", FINALIZER_ORPHAN, FINALIZER_FOREGROUND];
        const TEXT: &str = "name is neither a standard finalizer name nor is it fully qualified";
        let bad = |name: &str| !self.any_finalizers && !name.contains('/') && !OWN.contains(&name);
        let at = Path::new("metadata").child("finalizers");
        let all = object.finalizers().enumerate().filter(|(_, name)| bad(name));
        all.map(|(i, name)| Error::invalid(at.index(i), name, TEXT)).collect()
    }
}

impl Strategy for Rules {
    fn default(&self, object: &mut Object) {
        (self.default)(object);
    }

    fn default_at(&self, object: &mut Object, now: jiff::Timestamp) {
        (self.default_at)(object, now);
    }

    fn adds_to_names(&self) -> bool {
        self.adds_to_names
    }

    fn default_read(&self, object: &mut Object) {
        (self.default_read)(object);
    }

    fn unconvertible(&self, object: &Object) -> Option<String> {
        (self.unconvertible)(object)
    }

    fn prepare_for_create(&self, ctx: &RequestContext<'_>, object: &mut Object) {
        (self.create)(ctx, object);
        crate::podspec::gated::drop_from(object);
    }

    fn prepare_for_update(&self, ctx: &RequestContext<'_>, object: &mut Object, old: &Object) {
        // First, so that what is dropped counts as no change.
        crate::podspec::gated::drop_from(object);
        (self.update)(ctx, object, old);
    }

    fn prepare_for_status_update(&self, ctx: &RequestContext<'_>, object: &mut Object, old: &Object) {
        (self.status_update)(ctx, object, old);
    }

    fn validate(&self, _ctx: &RequestContext<'_>, object: &Object) -> ErrorList {
        let mut errors = self.finalizer_names(object);
        errors.extend((self.validate)(object));
        errors.extend((self.validate_new)(object));
        errors
    }

    fn validate_update(&self, _ctx: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        let mut errors = self.finalizer_names(object);
        errors.extend(match self.validate_update {
            Some(validate) => validate(object, old),
            None => (self.validate)(object),
        });
        errors
    }

    fn validate_status_update(&self, ctx: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        let mut errors = self.finalizer_names(object);
        errors.extend((self.validate_status)(object, old));
        if let Some(validate) = self.validate_status_at.filter(|_| errors.is_empty()) {
            errors.extend(validate(object, old, ctx.now));
        }
        errors
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        (self.warnings)(object, old)
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn deletes_itself(&self) -> bool {
        self.deletes_itself
    }

    fn refuse_field(&self, path: &str) -> Option<String> {
        (self.field_refusal)(path)
    }

    fn graceful_delete(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        (self.graceful)(object, requested)
    }

    fn default_propagation(&self) -> Propagation {
        self.propagation
    }

    fn prepare_for_delete(&self, object: &mut Object) {
        (self.deletion)(object);
    }

    fn extra_finalizers<'a>(&self, object: &'a Object) -> Vec<&'a str> {
        (self.finalizers)(object)
    }

    fn deletion_finalizers(&self) -> &'static [&'static str] {
        self.deletion_finalizers
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        self.deletion_warning
    }

    fn deletes_unreadable(&self) -> bool {
        self.deletes_unreadable
    }

    fn status_has_table(&self) -> bool {
        self.status_has_table
    }

    fn hidden_annotations(&self) -> &'static [&'static str] {
        self.hidden_annotations
    }

    fn counts_empty(&self) -> bool {
        self.counts_empty
    }

    fn keeps_status_on_create(&self) -> bool {
        self.keeps_status
    }
}
