//! The node's network: pods' interfaces, and Services and NetworkPolicies as kernel rules.
//!
//! Everything that this room puts into the kernel is one bridge with its veth pairs and one nft table, all named after
//! the instance and removable; nothing runs `ip`, `nft` or `iptables`.

pub mod conntrack;
pub mod gate;
mod health;
pub mod local_address;
pub mod netns;
pub mod nft;
pub mod pods;
pub mod policy;
pub mod proxy;
pub mod services;
