//! Flags about where the cluster's state lies, its snapshots and its encryption. Names are k3s's where it has them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// An external etcd cluster, if one is to be used.
#[derive(Debug, Clone, Default, Args)]
pub struct DatastoreOptions {
    /// Keeps the cluster's state in an etcd cluster instead of a file: https://host:port, several with commas.
    #[arg(long, global = true, env = "SKIFF_DATASTORE_ENDPOINT", value_delimiter = ',')]
    pub datastore_endpoint: Vec<String>,
    /// Authority that signed the etcd members' certificates.
    #[arg(long, global = true, env = "SKIFF_DATASTORE_CAFILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, global = true, env = "SKIFF_DATASTORE_CERTFILE")]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, global = true, env = "SKIFF_DATASTORE_KEYFILE")]
    pub datastore_keyfile: Option<PathBuf>,
    /// Writes node heartbeats and leader leases to the file too, which otherwise stay in memory until an orderly stop.
    #[arg(long, global = true, env = "SKIFF_KEEP_ALL_ON_DISK")]
    pub keep_all_on_disk: bool,
}

/// etcd members that servers run themselves.
#[derive(Debug, Clone, Args)]
pub struct ClusterOptions {
    /// Starts the first member of an etcd cluster on this server; what was in the file moves there.
    #[arg(long, env = "SKIFF_CLUSTER_INIT", conflicts_with = "datastore_endpoint")]
    pub cluster_init: bool,
    /// Joins the servers of the one at this URL, which was started with --cluster-init.
    #[arg(long, short = 's', env = "SKIFF_URL", conflicts_with_all = ["datastore_endpoint", "cluster_init"])]
    pub server: Option<String>,
    /// The etcd binary; the one in PATH if not given.
    #[arg(long, env = "SKIFF_ETCD_BINARY")]
    pub etcd_binary: Option<PathBuf>,
    /// Port that the etcd member serves clients on.
    #[arg(long, env = "SKIFF_ETCD_CLIENT_PORT", default_value_t = 2379)]
    pub etcd_client_port: u16,
    /// Port that the etcd member serves the other members on.
    #[arg(long, env = "SKIFF_ETCD_PEER_PORT", default_value_t = 2380)]
    pub etcd_peer_port: u16,
}

/// Where snapshots lie.
#[derive(Clone, Default, Args)]
pub struct SnapshotPlace {
    /// Folder of the snapshots; `snapshots` in the data folder if not given.
    #[arg(long, global = true, env = "SKIFF_SNAPSHOT_DIR")]
    pub snapshot_dir: Option<PathBuf>,
    /// Bucket that snapshots are copied to as well.
    #[arg(long, global = true, env = "SKIFF_S3_BUCKET")]
    pub s3_bucket: Option<String>,
    /// URL of the S3 server.
    #[arg(long, global = true, env = "SKIFF_S3_ENDPOINT", default_value = "https://s3.amazonaws.com")]
    pub s3_endpoint: String,
    /// Region of the bucket.
    #[arg(long, global = true, env = "SKIFF_S3_REGION", default_value = "us-east-1")]
    pub s3_region: String,
    /// Folder in the bucket.
    #[arg(long, global = true, env = "SKIFF_S3_FOLDER", default_value = "")]
    pub s3_folder: String,
    /// Access key; give it by environment or configuration file, where other users do not see it.
    #[arg(long, global = true, env = "SKIFF_S3_ACCESS_KEY", hide_env_values = true)]
    pub s3_access_key: Option<String>,
    /// Secret key.
    #[arg(long, global = true, env = "SKIFF_S3_SECRET_KEY", hide_env_values = true)]
    pub s3_secret_key: Option<String>,
}

impl std::fmt::Debug for SnapshotPlace {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotPlace")
            .field("snapshot_dir", &self.snapshot_dir)
            .field("s3_bucket", &self.s3_bucket)
            .field("s3_endpoint", &self.s3_endpoint)
            .finish_non_exhaustive()
    }
}

/// What a server does about snapshots and encryption by itself.
#[derive(Debug, Clone, Args)]
pub struct SafetyOptions {
    /// When snapshots are made, as a cron schedule; empty for never.
    #[arg(long, env = "SKIFF_SNAPSHOT_SCHEDULE_CRON", default_value = "0 */12 * * *")]
    pub snapshot_schedule_cron: String,
    /// How many scheduled snapshots are kept.
    #[arg(long, env = "SKIFF_SNAPSHOT_RETENTION", default_value_t = 5)]
    pub snapshot_retention: usize,
    /// Encrypts resources in the database as this file says (Kubernetes' EncryptionConfiguration).
    #[arg(long, env = "SKIFF_ENCRYPTION_PROVIDER_CONFIG")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Encrypts Secrets in the database with keys that skiff makes and `skiff secrets-encrypt` rotates.
    #[arg(long, env = "SKIFF_SECRETS_ENCRYPTION", conflicts_with = "encryption_provider_config")]
    pub secrets_encryption: bool,
}

/// What every command about the stored state takes.
#[derive(Debug, Clone, Args)]
pub struct StateOptions {
    /// YAML file with the server's settings, of which those of this command are taken.
    #[arg(long, short = 'c', env = "SKIFF_CONFIG", default_value = "/etc/skiff/config.yaml", global = true)]
    pub config: PathBuf,
    /// Folder of the server's data.
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff", global = true)]
    pub data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct SnapshotOptions {
    #[command(flatten)]
    pub state: StateOptions,
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    #[command(flatten)]
    pub place: SnapshotPlace,
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Makes a snapshot, of a running server too.
    Save {
        /// Beginning of its name.
        #[arg(long, default_value = "on-demand")]
        name: String,
    },
    /// Lists snapshots.
    #[command(visible_alias = "ls")]
    List,
    /// Puts a snapshot back; no server may be running. What was there before is kept.
    Restore {
        /// Name of the snapshot as `list` shows it, or the path of its file. It may be one that etcdctl saved.
        snapshot: String,
    },
    /// Removes all but the newest snapshots of one name.
    Prune {
        #[arg(long, default_value = "scheduled")]
        name: String,
        #[arg(long, default_value_t = 5)]
        snapshot_retention: usize,
    },
    /// Removes snapshots.
    Delete { names: Vec<String> },
}

#[derive(Debug, Args)]
pub struct DatastoreCommandOptions {
    #[command(flatten)]
    pub state: StateOptions,
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    #[command(subcommand)]
    pub command: DatastoreCommand,
}

#[derive(Debug, Subcommand)]
pub enum DatastoreCommand {
    /// Copies everything from one datastore to another; no server may be running.
    Migrate {
        /// `sqlite` for the file in the data folder, or `etcd` for the cluster of --datastore-endpoint.
        #[arg(long)]
        from: DatastoreKind,
        /// As --from.
        #[arg(long)]
        to: DatastoreKind,
    },
    /// Lists the etcd members of the cluster that this server belongs to.
    Members,
    /// Removes another server's etcd member, by its name.
    RemoveMember { name: String },
}

/// A kind of datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DatastoreKind {
    Sqlite,
    Etcd,
}

#[derive(Debug, Args)]
pub struct SecretsEncryptOptions {
    #[command(flatten)]
    pub state: StateOptions,
    #[command(subcommand)]
    pub command: SecretsEncryptCommand,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum SecretsEncryptCommand {
    /// Tells how many values are encrypted as they should be.
    Status,
    /// Makes a new key, writes every value anew with it, and drops the old keys; for keys that skiff made.
    Rotate,
    /// Writes every value anew that the first provider of the configuration did not write.
    Reencrypt,
}
