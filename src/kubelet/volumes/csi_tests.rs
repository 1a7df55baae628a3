use serde_json::json;

use super::*;

fn wanted<'a>(fs_type: &'a str, modes: &'a [String], inline: bool) -> Wanted<'a> {
    Wanted {
        driver: "d",
        handle: "h".into(),
        spec_name: "v",
        fs_type,
        read_only: false,
        block: false,
        inline,
        access_modes: modes,
        mount_options: &[],
        attributes: Map::new(),
        publish_secret: None,
        stage_secret: None,
    }
}

#[test]
fn the_drivers_policy_decides_about_the_group() {
    let modes = ["ReadWriteOnce".to_owned()];
    let many = ["ReadWriteMany".to_owned()];
    let check = |policy: Option<&str>, fs_type: &str, modes: &[String], expected: Option<i64>| {
        let rules = CSIDriverSpec { fs_group_policy: policy.map(str::to_owned), ..CSIDriverSpec::default() };
        let found = group_for(&rules, &wanted(fs_type, modes, false), Some(7));
        assert_eq!(found, expected, "{policy:?} {fs_type} {modes:?}");
    };
    check(None, "ext4", &modes, Some(7));
    check(None, "", &modes, None);
    check(None, "ext4", &many, None);
    check(Some("File"), "", &many, Some(7));
    check(Some("None"), "ext4", &modes, None);
}

#[test]
fn a_driver_serves_the_life_cycles_that_it_names() {
    let check = |modes: &[&str], known: bool, inline: bool, ok: bool| {
        let list = modes.iter().map(|m| (*m).to_owned()).collect();
        let rules = CSIDriverSpec { volume_lifecycle_modes: Some(list), ..CSIDriverSpec::default() };
        let result = check_mode(&rules, known, &wanted("", &[], inline));
        assert_eq!(result.is_ok(), ok, "{modes:?} {known} {inline}");
    };
    check(&[], false, false, true);
    check(&[], false, true, false);
    check(&["Persistent"], true, true, false);
    check(&["Persistent", "Ephemeral"], true, true, true);
    check(&["Ephemeral"], true, false, false);
}

#[test]
fn access_modes_are_as_precise_as_the_driver_is() {
    let check = |name: &str, precise, expected| assert_eq!(mode(&[name.to_owned()], precise), expected, "{name}");
    check("ReadWriteOnce", false, access_mode::SINGLE_NODE_WRITER);
    check("ReadWriteOnce", true, access_mode::SINGLE_NODE_MULTI_WRITER);
    check("ReadWriteOncePod", true, access_mode::SINGLE_NODE_SINGLE_WRITER);
    check("ReadOnlyMany", true, access_mode::MULTI_NODE_READER_ONLY);
    check("ReadWriteMany", false, access_mode::MULTI_NODE_MULTI_WRITER);
}

#[test]
fn records_are_found_again_and_have_upstreams_names() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("volumes/kubernetes.io~csi/pv-1");
    std::fs::create_dir_all(&folder).unwrap();
    let text = json!({"driverName": "d", "volumeHandle": "h", "nodeName": "n", "specVolID": "pv-1",
        "volumeLifecycleMode": "Persistent", "attachmentID": "csi-1"});
    std::fs::write(folder.join(DATA), text.to_string()).unwrap();
    let found = records(dir.path());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].1.spec_name.as_str(), found[0].1.attachment.as_str()), ("pv-1", "csi-1"));
    assert!(records(&dir.path().join("none")).is_empty());
}
