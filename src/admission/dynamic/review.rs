//! `AdmissionReview`: what webhooks are asked and what they answer (apiserver
//! `admission/plugin/webhook/request/admissionreview.go`).

use api::admission::{Attributes, Operation};
use api::status::{Cause, Details};
use api::{Gvk, Gvr, Object, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::rules::Matched;

fn kind(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn resource(gvr: &Gvr) -> Value {
    json!({"group": gvr.group, "version": gvr.version, "resource": gvr.resource})
}

/// The members of `AdmissionRequest` but `uid`, `object` and `oldObject`: also what expressions see as `request`.
pub(crate) fn request(attributes: &Attributes, matched: &Matched) -> Map<String, Value> {
    let mut request = Map::new();
    let mut put = |key: &str, value: Value| {
        if value.as_str() != Some("") {
            request.insert(key.to_owned(), value);
        }
    };
    put("kind", kind(&matched.kind));
    put("resource", resource(&matched.resource));
    put("subResource", attributes.subresource.as_str().into());
    put("requestKind", kind(&attributes.gvk));
    put("requestResource", resource(&attributes.resource));
    put("requestSubResource", attributes.subresource.as_str().into());
    put("name", attributes.name.as_str().into());
    put("namespace", attributes.namespace.as_str().into());
    put("operation", attributes.operation.as_str().into());
    put("userInfo", user_info(&attributes.user));
    put("dryRun", attributes.dry_run.into());
    put("options", attributes.options.clone().map_or(Value::Null, Object::into_value));
    request
}

/// `authentication.k8s.io/v1` `UserInfo`.
pub(crate) fn user_info(user: &api::UserInfo) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The document for a webhook that takes `version` (`v1` or `v1beta1`).
pub(crate) fn review(
    version: &str,
    uid: &str,
    attributes: &Attributes,
    matched: &Matched,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Value {
    let mut members = request(attributes, matched);
    members.insert("uid".to_owned(), uid.into());
    let value = |object: Option<&Object>| object.map_or(Value::Null, |o| Value::Object(o.0.clone()));
    members.insert("object".to_owned(), value(object));
    members.insert("oldObject".to_owned(), value(old));
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{version}"),
        "request": members,
    })
}

/// A webhook's answer, checked.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub allowed: bool,
    /// The JSON patch; empty for none.
    pub patch: Vec<u8>,
    /// The `metav1.Status` of a refusal.
    pub result: Value,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
    pub patch_type: String,
}

/// Reads the answer as upstream's decoder does, which knows `AdmissionReview` of `admission.k8s.io`, in JSON or YAML.
///
/// # Errors
/// The decoder's text.
pub(crate) fn decode(version: &str, body: &[u8]) -> Result<Value, String> {
    let unreadable = |why: String| format!("couldn't get version/kind; json parse error: {why}");
    let document = match api::codec::json_value(body) {
        Ok(document) => document,
        // A word is YAML too.
        Err(why) if body.first() == Some(&b'{') => return Err(unreadable(why)),
        Err(why) => api::codec::yaml_value(body).map_err(|_| unreadable(why))?,
    };
    if !document.is_object() {
        let ty = api::codec::go_word(&document);
        return Err(unreadable(format!(
            "json: cannot unmarshal {ty} into Go value of type struct {{ APIVersion string \
             \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        )));
    }
    let text = |member: &str| document.get(member).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let known = matches!(api_version, "admission.k8s.io/v1" | "admission.k8s.io/v1beta1" | "");
    if !known || !matches!(kind, "AdmissionReview" | "") {
        return Err(format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:110\""
        ));
    }
    if let Some(found) = api_version.strip_prefix("admission.k8s.io/").filter(|found| *found != version) {
        return Err(format!("converting ({found}.AdmissionReview) to ({version}.AdmissionReview): unknown conversion"));
    }
    let response = document.get("response").unwrap_or(&Value::Null);
    for (member, ty) in [("uid", "string"), ("allowed", "bool"), ("patchType", "string")] {
        let found = response.get(member).unwrap_or(&Value::Null);
        let name = api::codec::go_word(found);
        if !found.is_null() && name != ty {
            return Err(format!(
                "json: cannot unmarshal {name} into Go struct field AdmissionResponse.response.{member} of type {ty}"
            ));
        }
    }
    if let Some(patch) = response.get("patch").and_then(Value::as_str)
        && let Err(error) = STANDARD.decode(patch)
    {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => patch.len(),
        };
        return Err(format!("illegal base64 data at input byte {at}"));
    }
    Ok(document)
}

/// `VerifyAdmissionResponse`.
///
/// # Errors
/// Upstream's text of what is wrong with it.
pub(crate) fn answer(version: &str, uid: &str, mutating: bool, document: &Value) -> Result<Answer, String> {
    let Some(response) = document.get("response").filter(|r| r.is_object()) else {
        return Err("webhook response was absent".to_owned());
    };
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    let patch_text = text(response, "patch");
    let patch =
        STANDARD.decode(&patch_text).map_err(|error| format!("webhook returned invalid response.patch: {error}"))?;
    let patch_type = response.get("patchType").filter(|t| !t.is_null()).map(|t| t.as_str().unwrap_or_default());
    if version == "v1" {
        let found = text(response, "uid");
        if found != uid {
            return Err(format!("expected response.uid={uid:?}, got {found:?}"));
        }
        let (api_version, kind) = (text(document, "apiVersion"), text(document, "kind"));
        if api_version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
            let shown = match api_version.split_once('/') {
                Some(_) => api_version,
                None => format!("/{api_version}"),
            };
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {shown}, Kind={kind}"
            ));
        }
        match (mutating, patch.is_empty(), patch_type) {
            (true, false, None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (true, true, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (true, _, Some("")) => return Err("webhook returned invalid response.patchType of \"\"".to_owned()),
            (false, false, _) => return Err("validating webhook may not return response.patch".to_owned()),
            (false, _, Some(_)) => return Err("validating webhook may not return response.patchType".to_owned()),
            _ => {}
        }
    }
    let patch_type = match patch_type {
        Some(found) if version == "v1" => found.to_owned(),
        // Older webhooks did not have to say.
        _ => "JSONPatch".to_owned(),
    };
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    Ok(Answer {
        allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or_default(),
        patch: if mutating { patch } else { Vec::new() },
        result: response.get("status").cloned().unwrap_or(Value::Null),
        warnings: response
            .get("warnings")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(ToOwned::to_owned)
            .collect(),
        annotations: annotations.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
        patch_type,
    })
}

/// Reasons that a `Status` may carry (`metav1.StatusReason`).
const REASONS: &[&str] = &[
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "StoreReadError",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "Expired",
    "ServiceUnavailable",
];

/// `metav1.StatusReason` of a text; empty if it is not one of upstream's.
pub(crate) fn reason(text: &str) -> &'static str {
    REASONS.iter().find(|known| **known == text).copied().unwrap_or_default()
}

/// The refusal as the client gets it (`webhookerrors.ToStatusErr`).
pub(crate) fn refusal(webhook: &str, result: &Value) -> Status {
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    let denied = format!("admission webhook {webhook:?} denied the request");
    let code = result.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or(0).max(400);
    let (message, why) = (text(result, "message"), text(result, "reason"));
    let message = match (message.as_str(), why.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let status = Status::new(code, reason(&why), message);
    let Some(details) = result.get("details").filter(|d| d.is_object()) else { return status };
    let causes = details.get("causes").and_then(Value::as_array).into_iter().flatten();
    status.with_details(Details {
        name: text(details, "name"),
        group: text(details, "group"),
        kind: text(details, "kind"),
        uid: text(details, "uid"),
        causes: causes
            .map(|c| Cause { reason: text(c, "reason"), message: text(c, "message"), field: text(c, "field") })
            .collect(),
        retry_after_seconds: details
            .get("retryAfterSeconds")
            .and_then(Value::as_i64)
            .and_then(|s| i32::try_from(s).ok())
            .unwrap_or_default(),
        ..Details::default()
    })
}

/// Whether a patch may be applied at all: deletions and connections have no object that could change.
pub(crate) fn can_patch(attributes: &Attributes) -> bool {
    attributes.object.is_some() && !matches!(attributes.operation, Operation::Delete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_as_upstream_does() {
        let review = |response: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let check = |mutating: bool, document: Value, want: &str| {
            let got = answer("v1", "u", mutating, &document).map_or_else(|why| why, |_| String::new());
            assert_eq!(got, want);
        };
        check(true, json!({}), "webhook response was absent");
        check(true, review(json!({"uid": "x"})), "expected response.uid=\"u\", got \"x\"");
        check(true, review(json!({"uid": "u", "allowed": true})), "");
        let patched = json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"});
        check(true, review(patched.clone()), "");
        check(false, review(patched), "validating webhook may not return response.patch");
        let half = json!({"uid": "u", "patch": "W10="});
        check(true, review(half), "webhook returned response.patch but not response.patchType");
        let nameless = json!({"apiVersion": "v1", "kind": "Pod", "response": {"uid": "u"}});
        check(
            true,
            nameless,
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /v1, Kind=Pod",
        );
    }

    #[test]
    fn refusals_read_as_upstream() {
        let check = |result: Value, code: u16, want: &str| {
            let status = refusal("foo", &result);
            assert_eq!((status.code, status.message.as_str()), (code, want));
        };
        let denied = "admission webhook \"foo\" denied the request";
        check(Value::Null, 400, &format!("{denied} without explanation"));
        check(json!({"message": "m"}), 400, &format!("{denied}: m"));
        check(json!({"reason": "Forbidden"}), 400, &format!("{denied}: Forbidden"));
        check(json!({"message": "m", "code": 403}), 403, &format!("{denied}: m"));
    }
}
