//! What actions and plugins may ask of the API server.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::names::{Gvk, Gvr};
use crate::object::Object;
use crate::schema::Schema;
use crate::status::Status;
use crate::user::UserInfo;
use crate::webhook::Webhooks;

/// The API server's own services, as an [`crate::kind::Action`] sees them.
pub struct ActionContext<'a> {
    pub user: &'a UserInfo,
    pub now: Timestamp,
    pub dry_run: bool,
    pub registry: &'a dyn Registry,
    pub authorizer: &'a dyn Authorizer,
    pub tokens: &'a dyn Tokens,
}

/// Objects by resource, without authorisation or admission: for code inside the server only.
#[async_trait]
pub trait Registry: Send + Sync {
    async fn get(&self, resource: &Gvr, namespace: &str, name: &str) -> Result<Object, Status>;

    /// Every object of a namespace, or of all if it is empty.
    async fn list(&self, resource: &Gvr, namespace: &str) -> Result<Vec<Object>, Status>;

    /// Creates with the kind's strategy.
    async fn create(&self, resource: &Gvr, namespace: &str, object: Object) -> Result<Object, Status>;

    /// Reads, changes and writes until no other writer interferes. `change` may run several times; its error ends the
    /// attempt. The strategy's prepare and validate steps do not run: the caller is trusted.
    async fn update(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        change: &(dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync),
    ) -> Result<Object, Status>;

    /// Deletes as the API would, with upstream's `DeleteOptions` as an object (may be empty).
    async fn delete(&self, resource: &Gvr, namespace: &str, name: &str, options: Object) -> Result<Object, Status>;
}

/// A question to the authoriser.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizationAttributes {
    pub verb: String,
    /// `false`: `path` is what counts.
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
    /// The raw field selector of a list, watch or deletecollection; empty for none.
    pub field_selector: String,
    /// The raw label selector, likewise.
    pub label_selector: String,
}

impl AuthorizationAttributes {
    /// Why a request is refused, in upstream's words (`endpoints/handlers/responsewriters/errors.go` `ForbiddenMessage`).
    pub fn refusal(&self, user: &UserInfo) -> String {
        let (name, verb) = (&user.name, &self.verb);
        if !self.is_resource {
            return format!("User {name:?} cannot {verb} path {:?}", self.path);
        }
        let mut resource = self.resource.clone();
        if !self.subresource.is_empty() {
            resource = format!("{resource}/{}", self.subresource);
        }
        let place = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("User {name:?} cannot {verb} resource {resource:?} in API group {:?} {place}", self.group)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow { reason: String },
    Deny { reason: String },
    NoOpinion { reason: String },
}

impl Decision {
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Allow { reason } | Self::Deny { reason } | Self::NoOpinion { reason } => reason,
        }
    }
}

/// Decides whether a user may do a thing.
#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision;

    /// The decision, and what went wrong on the way to it (a webhook that did not answer).
    async fn authorize_or_fail(
        &self,
        user: &UserInfo,
        attributes: &AuthorizationAttributes,
    ) -> (Decision, Option<String>) {
        (self.authorize(user, attributes).await, None)
    }

    /// `(resource rules, non-resource rules, incomplete)` as the items of `SelfSubjectRulesReview.status`.
    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<serde_json::Value>, Vec<serde_json::Value>, bool);

    /// Why [`Self::rules`] are incomplete, if they always are.
    fn rules_error(&self, _: &UserInfo) -> Option<String> {
        None
    }
}

/// Makes and checks service-account tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A signed token and when it expires.
    async fn issue(&self, request: TokenRequest) -> Result<(String, Timestamp), Status>;

    /// The audiences of the API server itself: those of tokens that are asked for without.
    fn audiences(&self) -> Vec<String>;

    /// The user behind a token and the audiences it is good for; an error text if it is no good.
    async fn review(&self, token: &str, audiences: &[String]) -> Result<(UserInfo, Vec<String>), String>;
}

/// What a bound service-account token says (KEP-1205).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    /// Empty: the API server's own audience.
    pub audiences: Vec<String>,
    /// Seconds, 600 to 2^32.
    pub expiration_seconds: i64,
    /// Kind, name and uid of the object that the token is bound to.
    pub bound_object: Option<(String, String, String)>,
    /// Name and uid of the pod's node.
    pub node: Option<(String, String)>,
}

/// A served resource as [`Kinds`] tells of it.
#[derive(Debug, Clone)]
pub struct ServedKind {
    pub resource: Gvr,
    pub gvk: Gvk,
    pub namespaced: bool,
    pub schema: Schema,
}

/// The kinds that are served at the moment, for code that sees objects of any kind.
#[async_trait]
pub trait Kinds: Send + Sync {
    /// The served kind of this name; `None` if there is none now.
    fn kind(&self, gvk: &Gvk) -> Option<ServedKind>;

    /// Every served kind.
    fn kinds(&self) -> Vec<ServedKind>;

    /// Other resources that hold the same objects and have the subresource (if it is not empty), with the kind of the
    /// bodies there: upstream's `EquivalentResourceMapper`.
    fn equivalents(&self, resource: &Gvr, subresource: &str) -> Vec<(Gvr, Gvk)>;

    /// The object as another version of its kind; `to` must be served and hold the same objects.
    async fn convert(&self, object: Object, to: &Gvk) -> Result<Object, Status>;

    /// Brings a changed object into shape as if it had just been decoded: members that its kind does not know are
    /// dropped, defaults are filled in. Objects of kinds that are not served are left as they are.
    fn complete(&self, object: Object) -> Result<Object, Status>;

    /// Whether an object has only members that its kind knows, as strict decoding sees it. Those of custom resources and of
    /// kinds that are not served are not looked at.
    ///
    /// # Errors
    /// What strict decoding says.
    fn check_members(&self, object: &Object) -> Result<(), String>;

    /// What the API would make of a document that did not come through it: read strictly, with defaults, and valid but for
    /// rules of what is created.
    ///
    /// # Errors
    /// Why it would not, as upstream's loaders of manifests say it.
    fn accept(&self, document: &serde_json::Value) -> Result<Object, String>;
}

/// Shared handles, for those that outlive one request.
#[derive(Clone)]
pub struct Services {
    pub registry: Arc<dyn Registry>,
    pub authorizer: Arc<dyn Authorizer>,
    pub tokens: Arc<dyn Tokens>,
    pub webhooks: Arc<dyn Webhooks>,
    pub kinds: Arc<dyn Kinds>,
}
