//! Conversion of custom resources by a webhook (apiextensions-apiserver `apiserver/conversion/webhook_converter.go`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::field::Path;
use crate::names::Gvk;
use crate::object::Object;
use crate::status::Status;
use crate::validation;
use crate::webhook::{Target, Webhooks};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `spec.conversion.webhook` of a CRD.
pub struct Webhook {
    pub target: Target,
    /// `conversionReviewVersions`, of which the first that is known is sent.
    pub review_versions: Vec<String>,
    pub webhooks: Arc<dyn Webhooks>,
}

impl Webhook {
    /// Converts objects to `version` (group and version), all in one call.
    ///
    /// # Errors
    /// 500 with upstream's text.
    pub async fn convert(&self, objects: Vec<Object>, version: &str) -> Result<Vec<Object>, Status> {
        let Some(first) = objects.first() else { return Ok(objects) };
        let about = format!("{}, Kind={}", first.api_version(), first.kind());
        let fail = |why: &str| Status::internal(format_args!("conversion webhook for {about} {why}"));
        let review = self.review_versions.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1"));
        let Some(review) = review else { return Err(Status::internal("no supported conversion review versions")) };
        let uid = uuid::Uuid::new_v4().to_string();
        let api_version = format!("apiextensions.k8s.io/{review}");
        let request = json!({
            "kind": "ConversionReview",
            "apiVersion": api_version,
            "request": {"uid": uid, "desiredAPIVersion": version, "objects": objects},
        });
        let body = serde_json::to_vec(&request).map_err(Status::internal)?;
        let answer = self
            .webhooks
            .post(&self.target, body.into(), TIMEOUT)
            .await
            .map_err(|error| fail(&format!("failed: {error}")))?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| fail(&format!("failed: {error}")))?;
        let converted = converted_objects(answer, review, &uid).map_err(|why| fail(&format!("failed: {why}")))?;
        if converted.len() != objects.len() {
            let (got, wanted) = (converted.len(), objects.len());
            return Err(fail(&format!("returned {got} objects, expected {wanted}")));
        }
        let mut all = Vec::with_capacity(objects.len());
        for (index, (original, converted)) in objects.iter().zip(converted).enumerate() {
            let alone = objects.len() == 1;
            let converted = checked(original, converted, version).map_err(|why| match alone {
                true if why.starts_with("invalid ") => fail(&format!("returned invalid object at index 0: {why}")),
                true => fail(&format!("returned invalid object: {why}")),
                false => fail(&format!("returned invalid converted object at index {index}: {why}")),
            })?;
            let restored = restore_metadata(original, converted).map_err(|why| match alone {
                true => fail(&format!("returned invalid metadata: {why}")),
                false => fail(&format!("returned invalid metadata in object at index {index}: {why}")),
            })?;
            all.push(restored);
        }
        Ok(all)
    }
}

/// `getConvertedObjectsFromResponse`.
fn converted_objects(mut answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
    if review == "v1" && (version != "apiextensions.k8s.io/v1" || kind != "ConversionReview") {
        let version = if version.is_empty() { "/" } else { &version };
        return Err(format!(
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {version}, Kind={kind}"
        ));
    }
    let response = answer["response"].take();
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    let found = text(&response["uid"]);
    if review == "v1" && found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    let status = text(&response["result"]["status"]);
    if status != "Success" {
        let message = text(&response["result"]["message"]);
        return Err(if message.is_empty() {
            format!("response.result.status was '{status}', not 'Success'")
        } else {
            message
        });
    }
    match response {
        Value::Object(mut map) => match map.remove("convertedObjects") {
            Some(Value::Array(objects)) => Ok(objects),
            _ => Ok(Vec::new()),
        },
        _ => Ok(Vec::new()),
    }
}

/// `validateConvertedObject` and the checks before it.
fn checked(original: &Object, converted: Value, version: &str) -> Result<Object, String> {
    let converted = Object::from_value(converted).ok_or("it is no JSON object")?;
    if converted.api_version() != version {
        return Err(format!("invalid groupVersion (expected {version}, received {})", converted.api_version()));
    }
    if converted.kind() != original.kind() {
        return Err(format!("invalid kind (expected {}, received {})", original.kind(), converted.kind()));
    }
    let same = |what: &str, a: &str, b: &str| {
        if a == b { Ok(()) } else { Err(format!("must have the same {what}: {a} != {b}")) }
    };
    same("name", original.name(), converted.name())?;
    same("namespace", original.namespace(), converted.namespace())?;
    same("UID", original.uid(), converted.uid())?;
    Ok(converted)
}

/// `restoreObjectMeta`: of metadata only labels and annotations may change.
fn restore_metadata(original: &Object, mut converted: Object) -> Result<Object, String> {
    let mut answered = match converted.0.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err("invalid metadata in converted object".to_owned()),
        None => return Err("missing metadata in converted object".to_owned()),
    };
    let mut metadata: Map<String, Value> =
        original.get(&["metadata"]).and_then(Value::as_object).cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let map = match answered.remove(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
                continue;
            }
            Some(Value::Object(map)) => map,
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        };
        if let Some((key, value)) = map.iter().find(|(_, value)| !value.is_string()) {
            let found = match value {
                Value::Null => "<nil>",
                Value::Bool(_) => "bool",
                Value::Number(number) if number.is_f64() => "float64",
                Value::Number(_) => "int64",
                Value::String(_) => "string",
                Value::Array(_) => "[]interface {}",
                Value::Object(_) => "map[string]interface {}",
            };
            return Err(format!("metadata.{field}[{key}] must be a string, but is {found} in converted object"));
        }
        if metadata.get(field).and_then(Value::as_object) != Some(&map) {
            let value = Value::Object(map.clone());
            let path = Path::new("metadata").child(field);
            let problems = match field {
                "labels" => validation::labels(Some(&value), &path),
                _ => crate::meta::validate_annotations(Some(&value), &path),
            };
            if !problems.is_empty() {
                let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
                return Err(match texts.as_slice() {
                    [one] => one.clone(),
                    many => format!("[{}]", many.join(", ")),
                });
            }
        }
        metadata.insert(field.to_owned(), Value::Object(map));
    }
    converted.0.insert("metadata".to_owned(), Value::Object(metadata));
    Ok(converted)
}

/// Go's text of a group, version and kind.
pub(super) fn gvk_text(gvk: &Gvk) -> String {
    format!("{}, Kind={}", gvk.api_version(), gvk.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn of_metadata_only_labels_and_annotations_are_the_webhooks() {
        let original = object(json!({"metadata": {"name": "a", "uid": "u", "labels": {"a": "1"}, "generation": 3}}));
        let converted = object(json!({"spec": 1, "metadata": {"name": "a", "labels": {"b": "2"}, "generation": 9}}));
        let restored = restore_metadata(&original, converted).unwrap();
        let want = json!({"name": "a", "uid": "u", "labels": {"b": "2"}, "generation": 3});
        assert_eq!(restored.0["metadata"], want);
        let bad = object(json!({"metadata": {"labels": {"b": 2}}}));
        let error = restore_metadata(&original, bad).unwrap_err();
        assert_eq!(error, "metadata.labels[b] must be a string, but is int64 in converted object");
    }

    #[test]
    fn answers_for_others_are_refused() {
        let answer = |uid: &str, status: &str| {
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": {"uid": uid, "result": {"status": status}, "convertedObjects": [{}]}})
        };
        assert_eq!(converted_objects(answer("u", "Success"), "v1", "u").unwrap().len(), 1);
        let check = |answer: Value, want: &str| assert_eq!(converted_objects(answer, "v1", "u").unwrap_err(), want);
        check(answer("x", "Success"), "expected response.uid=\"u\", got \"x\"");
        check(answer("u", "Failed"), "response.result.status was 'Failed', not 'Success'");
        check(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}), "no response provided");
    }
}
