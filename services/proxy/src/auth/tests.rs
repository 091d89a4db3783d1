use std::time::Duration;

use prost::Message as _;
use redkite_catalog::{keys, privileges};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::{milvus_service_server::MilvusService as _, *},
    redkite::meta::{CredentialInfo, GrantInfo, RoleInfo, UserRoleInfo},
};
use tonic::{Code, Request, Response};

use super::*;
use crate::{
    grpc::SERVED,
    testing::{ALIAS, COLLECTION, COLLECTION_ID, Fixture, code_of},
};

const PASSWORD: &str = "P@ssw0rd";

/// Milvus's options of its messages: RPC, object type and privilege.
const MILVUS: &str = include_str!("milvus.golden");

#[test]
fn every_rpc_needs_what_it_needs_in_milvus() {
    for (rpc, needs) in SERVED {
        let line = MILVUS
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{rpc} ")))
            .unwrap_or_else(|| panic!("{rpc} is not in milvus.golden"));
        let ours = needs.map_or_else(
            || "-".to_owned(),
            |privilege| {
                let name = privilege.name();
                format!("{} {name}", privileges::object_type(name))
            },
        );
        let stricter = matches!(*rpc, "GetImportState" | "ListImportTasks");
        assert!(ours == line || stricter, "{rpc} needs {line}, not {ours}");
    }
}

/// A proxy with authorization, a collection, root and bob, who has the role `reader`.
async fn guarded() -> Fixture {
    let fixture = Fixture::guarded().await;
    fixture.put_collection().await;
    for name in ["root", "bob"] {
        put_user(&fixture, name, PASSWORD).await;
    }
    let role = RoleInfo {
        name: "reader".to_owned(),
        ..RoleInfo::default()
    };
    let given = UserRoleInfo {
        username: "bob".to_owned(),
        role_name: "reader".to_owned(),
    };
    let records = vec![
        (keys::role("reader"), role.encode_to_vec()),
        (keys::user_role("bob", "reader"), given.encode_to_vec()),
    ];
    fixture.put(records).await;
    fixture
}

async fn put_user(fixture: &Fixture, name: &str, password: &str) {
    let passwords = fixture.context.guard.passwords();
    let deadline = Deadline::after(Duration::from_secs(60));
    let record = CredentialInfo {
        username: name.to_owned(),
        encrypted_password: passwords.hash(password.into(), deadline).await.unwrap(),
        ..CredentialInfo::default()
    };
    fixture
        .put(vec![(keys::user(name), record.encode_to_vec())])
        .await;
}

fn grant(database: &str, object: &str, privilege: &str) -> (String, Vec<u8>) {
    let object_type = privileges::object_type(privilege);
    let record = GrantInfo {
        role_name: "reader".to_owned(),
        object_type: object_type.to_owned(),
        db_name: database.to_owned(),
        object_name: object.to_owned(),
        privilege: privilege.to_owned(),
        grantor: "root".to_owned(),
    };
    let key = keys::grant("reader", object_type, database, object, privilege);
    (key, record.encode_to_vec())
}

/// A request with a token and a database.
fn request<T>(message: T, token: &str, database: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(HEADER, BASE64_STANDARD.encode(token).parse().unwrap());
    metadata.insert("dbname", database.parse().unwrap());
    request
}

fn as_bob<T>(message: T) -> Request<T> {
    request(message, &format!("bob:{PASSWORD}"), "")
}

fn as_root<T>(message: T) -> Request<T> {
    request(message, &format!("root:{PASSWORD}"), "")
}

#[track_caller]
fn refused<T>(answer: Result<Response<T>, Status>, code: Code, text: &str) {
    let status = answer.err().expect("it is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

#[tokio::test]
async fn who_comes_without_the_right_password_is_not_let_in() {
    let fixture = guarded().await;
    let front = &fixture.front;
    let connect = |request| front.connect(request);
    let unknown = Code::Unauthenticated;
    let wrong = "auth check failure, please check username and password are correct";
    refused(
        connect(Request::new(ConnectRequest::default())).await,
        unknown,
        "missing authorization in header",
    );
    let mut garbled = Request::new(ConnectRequest::default());
    garbled
        .metadata_mut()
        .insert(HEADER, "root:Milvus".parse().unwrap());
    refused(connect(garbled).await, unknown, "invalid token format");
    for token in [
        "bob:wrong",
        "bob:",
        "nobody:P@ssw0rd",
        ":",
        "root:bob:P@ssw0rd",
    ] {
        let message = ConnectRequest::default();
        refused(connect(request(message, token, "")).await, unknown, wrong);
    }
    refused(
        connect(request(ConnectRequest::default(), "a-key", "")).await,
        unknown,
        "auth check failure, please check api key is correct",
    );
    let connected = connect(as_bob(ConnectRequest::default())).await.unwrap();
    assert_eq!(code_of(connected.into_inner().status), 0);
    front
        .get_version(as_bob(GetVersionRequest {}))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_new_password_and_the_end_of_a_user_count_at_once() {
    let fixture = guarded().await;
    let front = &fixture.front;
    let version = |token: &str| {
        let request = request(GetVersionRequest {}, token, "");
        front.get_version(request)
    };
    version("bob:P@ssw0rd").await.unwrap();
    put_user(&fixture, "bob", "an0ther").await;
    assert!(version("bob:P@ssw0rd").await.is_err());
    version("bob:an0ther").await.unwrap();
    fixture
        .commit(Txn::new().then(Op::delete(keys::user("bob"))))
        .await;
    assert!(version("bob:an0ther").await.is_err());
}

#[tokio::test]
async fn privileges_count_where_they_were_granted() {
    let fixture = guarded().await;
    fixture.put_database(2, "shop").await;
    let front = &fixture.front;
    let statistics = |collection: &str| GetCollectionStatisticsRequest {
        collection_name: collection.to_owned(),
        ..GetCollectionStatisticsRequest::default()
    };
    let denied = "PrivilegeGetStatistics: permission deny to bob in the `default` database";
    let no = Code::PermissionDenied;
    let ask = |message| front.get_collection_statistics(as_bob(message));
    refused(ask(statistics(COLLECTION)).await, no, denied);

    // Granted on the alias's name it does not count for the collection, in another database neither.
    let elsewhere = vec![
        grant("default", ALIAS, "GetStatistics"),
        grant("shop", COLLECTION, "GetStatistics"),
    ];
    fixture.put(elsewhere).await;
    refused(ask(statistics(ALIAS)).await, no, denied);
    refused(ask(statistics(COLLECTION)).await, no, denied);

    fixture
        .put(vec![grant("default", COLLECTION, "GetStatistics")])
        .await;
    for name in [COLLECTION, ALIAS] {
        let answer = ask(statistics(name)).await.unwrap().into_inner();
        assert_eq!(code_of(answer.status), 0, "{name}");
    }
    refused(ask(statistics("other")).await, no, denied);
    refused(ask(statistics("")).await, no, denied);
    // The message's database counts before the connection's.
    let mut there = statistics(COLLECTION);
    there.db_name = "shop".to_owned();
    let answer = front.get_collection_statistics(as_bob(there)).await;
    assert_eq!(code_of(answer.unwrap().into_inner().status), 100);
    there = statistics("films");
    there.db_name = "shop".to_owned();
    refused(
        front.get_collection_statistics(as_bob(there)).await,
        no,
        "PrivilegeGetStatistics: permission deny to bob in the `shop` database",
    );
    let root = front
        .get_collection_statistics(as_root(statistics("other")))
        .await;
    assert_eq!(code_of(root.unwrap().into_inner().status), 100);
}

#[tokio::test]
async fn requests_name_their_objects_in_different_ways() {
    let fixture = guarded().await;
    fixture.put_database(2, "shop").await;
    let grants = vec![
        grant("default", COLLECTION, "Flush"),
        grant("default", COLLECTION, "ShowPartitions"),
        grant("default", "*", "AlterDatabase"),
        grant("default", "*", "RenameCollection"),
    ];
    fixture.put(grants).await;
    let view = fixture.context.view();
    let bob = Caller::user(view.access().user("bob").unwrap().clone());

    let flush = |names: &[&str]| FlushRequest {
        collection_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..FlushRequest::default()
    };
    let may_flush = |names| Guard::authorize(&view, &bob, "default", &flush(names)).is_ok();
    assert!(may_flush(&[COLLECTION]) && may_flush(&[COLLECTION, ALIAS]));
    assert!(!may_flush(&[COLLECTION, "other"]) && !may_flush(&[]));

    let partitions = |id: i64| ShowPartitionsRequest {
        collection_id: id,
        ..ShowPartitionsRequest::default()
    };
    let may_show = |id| Guard::authorize(&view, &bob, "shop", &partitions(id)).is_ok();
    assert!(may_show(COLLECTION_ID.0) && !may_show(99) && !may_show(0));

    let alter = |database: &str| AlterDatabaseRequest {
        db_name: database.to_owned(),
        ..AlterDatabaseRequest::default()
    };
    let may_alter = |name| Guard::authorize(&view, &bob, "default", &alter(name)).is_ok();
    assert!(may_alter("default") && may_alter("") && !may_alter("shop"));

    let rename = |database: &str| RenameCollectionRequest {
        new_db_name: database.to_owned(),
        ..RenameCollectionRequest::default()
    };
    let may_rename = |name| Guard::authorize(&view, &bob, "default", &rename(name)).is_ok();
    assert!(may_rename("") && may_rename("default") && !may_rename("shop"));

    let asked = |name: &str| SelectGrantRequest {
        entity: Some(GrantEntity {
            role: Some(RoleEntity {
                name: name.to_owned(),
                ..RoleEntity::default()
            }),
            ..GrantEntity::default()
        }),
        ..SelectGrantRequest::default()
    };
    let may_ask = |name| Guard::authorize(&view, &bob, "default", &asked(name)).is_ok();
    assert!(may_ask("reader") && may_ask("public") && !may_ask("admin") && !may_ask(""));
}

#[tokio::test]
async fn users_look_after_themselves() {
    let fixture = guarded().await;
    let front = &fixture.front;
    let described = |name: Option<&str>| SelectUserRequest {
        user: name.map(|name| UserEntity {
            name: name.to_owned(),
        }),
        ..SelectUserRequest::default()
    };
    front
        .select_user(as_bob(described(Some("bob"))))
        .await
        .unwrap();
    for other in [Some("root"), None] {
        refused(
            front.select_user(as_bob(described(other))).await,
            Code::PermissionDenied,
            "PrivilegeSelectUser: permission deny to bob in the `default` database",
        );
    }
    let change = |name: &str, old: &str| UpdateCredentialRequest {
        username: name.to_owned(),
        old_password: BASE64_STANDARD.encode(old),
        new_password: BASE64_STANDARD.encode("an0ther"),
        ..UpdateCredentialRequest::default()
    };
    let own = front
        .update_credential(as_bob(change("bob", PASSWORD)))
        .await;
    assert_eq!(code_of(Some(own.unwrap().into_inner())), 0);
    let own = front
        .update_credential(as_bob(change("bob", "wrong")))
        .await;
    assert_eq!(code_of(Some(own.unwrap().into_inner())), 1400);
    let other = front
        .update_credential(as_bob(change("root", PASSWORD)))
        .await;
    assert_eq!(other.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn lists_show_what_was_granted() {
    let fixture = guarded().await;
    fixture.put_database(2, "shop").await;
    let front = &fixture.front;
    let collections =
        async |whose: fn(ShowCollectionsRequest) -> Request<ShowCollectionsRequest>| {
            let answer = front.show_collections(whose(Default::default())).await;
            answer.unwrap().into_inner().collection_names
        };
    let databases = async || {
        let answer = front.list_databases(as_bob(Default::default())).await;
        answer.unwrap().into_inner().db_names
    };
    assert_eq!(collections(as_root).await, [COLLECTION]);
    assert!(collections(as_bob).await.is_empty() && databases().await.is_empty());
    let named = DescribeCollectionRequest {
        collection_name: COLLECTION.to_owned(),
        ..DescribeCollectionRequest::default()
    };
    fixture
        .put(vec![grant("default", "*", "DescribeCollection")])
        .await;
    let describe = async || {
        let answer = front.describe_collection(as_bob(named.clone())).await;
        code_of(answer.unwrap().into_inner().status)
    };
    assert_eq!(describe().await, 1401);
    fixture
        .put(vec![grant("default", COLLECTION, "Search")])
        .await;
    assert_eq!(describe().await, 0);
    assert_eq!(collections(as_bob).await, [COLLECTION]);
    assert_eq!(databases().await, ["default"]);
}

#[tokio::test]
async fn grants_bear_their_grantor_s_name() {
    let fixture = guarded().await;
    fixture
        .put(vec![grant("default", "*", "ManageOwnership")])
        .await;
    let message = OperatePrivilegeV2Request {
        role: Some(RoleEntity {
            name: "reader".to_owned(),
            ..RoleEntity::default()
        }),
        grantor: Some(GrantorEntity {
            user: None,
            privilege: Some(PrivilegeEntity {
                name: "Query".to_owned(),
            }),
        }),
        collection_name: COLLECTION.to_owned(),
        ..OperatePrivilegeV2Request::default()
    };
    let answer = fixture.front.operate_privilege_v2(as_bob(message)).await;
    assert_eq!(code_of(Some(answer.unwrap().into_inner())), 0);
    let submitted = fixture.fake.submitted.lock();
    assert!(format!("{submitted:?}").contains("bob"), "{submitted:?}");
}
