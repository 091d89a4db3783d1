//! What an operator can set.

use std::{collections::BTreeMap, path::PathBuf};

use redkite_config::{Error, HumanDuration, Result, Secret, Validate};
use redkite_metastore::{LogEngine, MetaNodeOptions};
use redkite_node::options::split_address;
use redkite_types::limits;
use serde::{Deserialize, Serialize};

/// Limits of what may exist; names as in Milvus's configuration, section `rootcoord`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootCoordOptions {
    /// Partitions of one collection.
    pub max_partition_num: usize,
    /// Collections of the deployment.
    pub max_collection_num: usize,
    /// Databases of the deployment.
    pub max_database_num: usize,
    /// Password of the user `root` when a deployment starts for the first time.
    pub default_root_password: Secret,
}

impl Default for RootCoordOptions {
    fn default() -> Self {
        Self {
            max_partition_num: limits::DEFAULT_MAX_PARTITIONS,
            max_collection_num: limits::MAX_COLLECTIONS,
            max_database_num: limits::MAX_DATABASES,
            default_root_password: "Milvus".into(),
        }
    }
}

/// The raft group that holds the metadata, section `metastore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetastoreOptions {
    /// Id of this replica in its group. Never used a second time: a replica that has lost its disk
    /// comes back under a new one.
    pub node_id: u64,
    /// The replicas that found the group, as `id=host:port`, the same list for each of them. Empty
    /// stands for a group of this replica alone.
    pub members: Vec<String>,
    /// Whether a new replica waits to be added to a group that exists (`redkite raft add`).
    pub join: bool,
    /// What the raft log is kept in. A data directory stays with the engine that it was made with.
    pub engine: LogEngine,
    /// For how long it can be read what definitions were at an earlier time.
    pub history_retention: HumanDuration,
    /// How often the leader tells the others that it lives.
    pub heartbeat: HumanDuration,
    /// Without a sign of the leader for twice as long, or a little more, a replica stands for
    /// election.
    pub election_timeout: HumanDuration,
}

impl Default for MetastoreOptions {
    fn default() -> Self {
        Self {
            node_id: 1,
            members: Vec::new(),
            join: false,
            engine: LogEngine::Sled,
            history_retention: HumanDuration::secs(3 * 24 * 3_600),
            heartbeat: HumanDuration::millis(200),
            election_timeout: HumanDuration::millis(600),
        }
    }
}

impl MetastoreOptions {
    /// The addresses of the founders by their ids.
    ///
    /// # Errors
    /// Names the entry that is not `id=host:port`, or an id that stands twice.
    pub fn founders(&self) -> Result<BTreeMap<u64, String>> {
        let wrong = |problem: String| Error::value("metastore.members", problem);
        let mut founders = BTreeMap::new();
        for member in &self.members {
            let parts = member.split_once('=').and_then(|(id, address)| {
                let id = id.trim().parse::<u64>().ok()?;
                split_address(address.trim())?;
                Some((id, address.trim().to_owned()))
            });
            let (id, address) =
                parts.ok_or_else(|| wrong(format!("has `{member}`, not id=host:port")))?;
            if founders.values().any(|known| *known == address) {
                return Err(wrong(format!("has the address {address} twice")));
            }
            if founders.insert(id, address).is_some() {
                return Err(wrong(format!("has the id {id} twice")));
            }
        }
        Ok(founders)
    }

    /// The replica's own options; the others reach it at `address`.
    ///
    /// # Errors
    /// When the members do not name this replica at that address.
    pub fn replica(&self, dir: PathBuf, address: &str) -> Result<MetaNodeOptions> {
        let mut founders = self.founders()?;
        match founders.get(&self.node_id) {
            Some(known) if known != address => {
                let id = self.node_id;
                return Err(Error::value(
                    "metastore.members",
                    format!(
                        "says that replica {id} is at {known}, but it is at {address}: see \
                         common.listen and common.advertised_host"
                    ),
                ));
            }
            Some(_) => {}
            None => {
                founders.insert(self.node_id, address.to_owned());
            }
        }
        if self.join {
            founders.clear();
        }
        let election = self.election_timeout.get();
        Ok(MetaNodeOptions {
            founders,
            engine: self.engine,
            heartbeat: self.heartbeat.get(),
            election_min: election,
            election_max: election * 4 / 3,
            ..MetaNodeOptions::single(self.node_id, dir, address)
        })
    }

    /// Where the other replicas are, as far as the configuration knows.
    pub fn others(&self) -> Vec<String> {
        let founders = self.founders().unwrap_or_default();
        let others = founders.into_iter().filter(|(id, _)| *id != self.node_id);
        others.map(|(_, address)| address).collect()
    }
}

impl Validate for MetastoreOptions {
    fn validate(&self) -> Result<()> {
        if self.node_id == 0 {
            return Err(Error::value("metastore.node_id", "must be at least 1"));
        }
        let founders = self.founders()?;
        if self.join && !founders.is_empty() && founders.contains_key(&self.node_id) {
            return Err(Error::value(
                "metastore.join",
                "is for a replica that is not among metastore.members",
            ));
        }
        if !self.join && !founders.is_empty() && !founders.contains_key(&self.node_id) {
            return Err(Error::value(
                "metastore.members",
                format!("does not name this replica, {}", self.node_id),
            ));
        }
        if !self.join && !founders.is_empty() && founders.len() % 2 == 0 {
            return Err(Error::value(
                "metastore.members",
                format!(
                    "has {} replicas: an even number bears the loss of no more of them than one \
                     less would, found the group with 1, 3 or 5",
                    founders.len()
                ),
            ));
        }
        let (heartbeat, election) = (self.heartbeat.get(), self.election_timeout.get());
        if heartbeat.is_zero() || heartbeat * 3 > election {
            return Err(Error::value(
                "metastore.election_timeout",
                "must be three heartbeats at least",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key that is named, and what is set.
    type Wrong = (&'static str, fn(&mut MetastoreOptions));

    fn three(node_id: u64) -> MetastoreOptions {
        MetastoreOptions {
            node_id,
            members: ["1=a:1", "2=b:1", "3=c:1"].map(str::to_owned).to_vec(),
            ..MetastoreOptions::default()
        }
    }

    #[test]
    fn a_replica_alone_founds_its_own_group() {
        let options = MetastoreOptions::default();
        options.validate().unwrap();
        let replica = options.replica("meta".into(), "here:1").unwrap();
        assert_eq!(
            replica,
            MetaNodeOptions::single(1, "meta", "here:1"),
            "the defaults are those of a group of one"
        );
        assert!(options.others().is_empty());
    }

    #[test]
    fn three_found_a_group_together() {
        let options = three(2);
        options.validate().unwrap();
        let replica = options.replica("meta".into(), "b:1").unwrap();
        assert_eq!(replica.founders.len(), 3);
        replica.validate().unwrap();
        assert_eq!(options.others(), ["a:1", "c:1"]);
        let error = options.replica("meta".into(), "b:2").unwrap_err();
        assert!(error.to_string().contains("b:1"), "{error}");
    }

    #[test]
    fn one_that_joins_founds_nothing() {
        let options = MetastoreOptions {
            join: true,
            ..three(4)
        };
        options.validate().unwrap();
        let replica = options.replica("meta".into(), "d:1").unwrap();
        assert!(replica.founders.is_empty());
        replica.validate().unwrap();
    }

    #[test]
    fn contradictions_name_their_key() {
        let with = |change: fn(&mut MetastoreOptions)| {
            let mut options = three(1);
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        let wrong: [Wrong; 9] = [
            ("metastore.node_id", |it| it.node_id = 0),
            ("metastore.members", |it| it.node_id = 4),
            ("metastore.join", |it| it.join = true),
            ("metastore.members", |it| it.members[0] = "a:1".into()),
            ("metastore.members", |it| it.members[0] = "1=a".into()),
            ("metastore.members", |it| it.members[0] = "2=a:1".into()),
            ("metastore.members", |it| drop(it.members.pop())),
            ("metastore.members", |it| it.members[0] = "1=b:1".into()),
            ("metastore.election_timeout", |it| {
                it.heartbeat = HumanDuration::secs(1);
            }),
        ];
        for (key, change) in wrong {
            let error = with(change);
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
