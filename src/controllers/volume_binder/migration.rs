//! In-tree plugins whose volumes their CSI drivers have taken over (csi-translation-lib, `pv_controller_base.go`).

use std::collections::BTreeMap;

/// The driver that stands in for an in-tree plugin.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// Keeps a dynamically provisioned in-tree volume until it is deleted in the storage too.
const IN_TREE: &str = "kubernetes.io/pv-controller";
/// Left by an external provisioner.
const EXTERNAL: &str = "external-provisioner.volume.kubernetes.io/finalizer";

const DRIVERS: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// The CSI driver of an in-tree plugin.
pub(super) fn driver_of(plugin: &str) -> Option<&'static str> {
    DRIVERS.iter().find(|(name, _)| *name == plugin).map(|(_, driver)| *driver)
}

pub(super) fn is_migrated(annotations: Option<&BTreeMap<String, String>>) -> bool {
    annotations.and_then(|a| a.get(MIGRATED_TO)).is_some_and(|driver| !driver.is_empty())
}

/// `updateMigrationAnnotations`: true if something changed. `keys` hold the plugin's name; the first that is there counts.
pub(super) fn annotate(annotations: &mut Option<BTreeMap<String, String>>, keys: &[&str]) -> bool {
    let Some(annotations) = annotations else { return false };
    let Some(plugin) = keys.iter().find_map(|key| annotations.get(*key)) else { return false };
    match driver_of(plugin) {
        Some(driver) if annotations.get(MIGRATED_TO).is_none_or(|known| known != driver) => {
            annotations.insert(MIGRATED_TO.to_owned(), driver.to_owned());
            true
        }
        Some(_) => false,
        None => annotations.remove(MIGRATED_TO).is_some_and(|known| !known.is_empty()),
    }
}

/// `modifyDeletionFinalizers` for a volume that `plugin` made: the new list if it differs.
pub(super) fn finalizers(known: &[String], plugin: &str, policy: &str) -> Option<Vec<String>> {
    let mut wanted = known.to_vec();
    if driver_of(plugin).is_some() {
        wanted.retain(|f| f != IN_TREE);
    } else if plugin.starts_with("kubernetes.io/") {
        if policy == "Delete" && !wanted.iter().any(|f| f == IN_TREE) {
            wanted.push(IN_TREE.to_owned());
        } else if policy != "Delete" {
            wanted.retain(|f| f != IN_TREE);
        }
        wanted.retain(|f| f != EXTERNAL);
    }
    (wanted != known).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_migrated_plugins_name_their_driver() {
        let check = |plugin: &str, migrated: Option<&str>, changes: bool, expected: Option<&str>| {
            let mut annotations = BTreeMap::from([("by".to_owned(), plugin.to_owned())]);
            annotations.extend(migrated.map(|driver| (MIGRATED_TO.to_owned(), driver.to_owned())));
            let mut annotations = Some(annotations);
            assert_eq!(annotate(&mut annotations, &["beside", "by"]), changes, "{plugin}");
            assert_eq!(annotations.unwrap().get(MIGRATED_TO).map(String::as_str), expected, "{plugin}");
        };
        check("kubernetes.io/aws-ebs", None, true, Some("ebs.csi.aws.com"));
        check("kubernetes.io/aws-ebs", Some("ebs.csi.aws.com"), false, Some("ebs.csi.aws.com"));
        check("example.com/nfs", Some("ebs.csi.aws.com"), true, None);
        check("example.com/nfs", None, false, None);
    }

    #[test]
    fn in_tree_volumes_are_protected_while_they_are_to_be_deleted() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(finalizers(&[], "kubernetes.io/host-path", "Delete"), Some(list(&[IN_TREE])));
        assert_eq!(finalizers(&list(&[IN_TREE]), "kubernetes.io/host-path", "Retain"), Some(Vec::new()));
        assert_eq!(finalizers(&list(&[EXTERNAL]), "example.com/nfs", "Delete"), None);
        assert_eq!(finalizers(&list(&[IN_TREE]), "kubernetes.io/aws-ebs", "Delete"), Some(Vec::new()));
    }
}
