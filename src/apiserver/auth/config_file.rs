//! The files of `apiserver.config.k8s.io` that kube-apiserver reads.

use serde::de::DeserializeOwned;

/// A kind of file.
pub trait ConfigFile: DeserializeOwned {
    const KIND: &'static str;

    /// The file's `apiVersion` and `kind`.
    fn type_meta(&self) -> (&str, &str);
}

/// Reads the text of a file, of any version that there has been.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn read<T: ConfigFile>(text: &str) -> Result<T, String> {
    let file: T = serde_saphyr::from_str(text)
        .map_err(|e| format!("failed decoding: {}", e.to_string().lines().next().unwrap_or_default()))?;
    let known = ["v1", "v1beta1", "v1alpha1"].map(|version| format!("apiserver.config.k8s.io/{version}"));
    let (version, kind) = file.type_meta();
    if !known.iter().any(|known| known == version) || kind != T::KIND {
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?}, expected {} of {}",
            T::KIND,
            known[0]
        ));
    }
    Ok(file)
}
