//! Schemas that change under their rows.

use super::*;
use crate::ddl::alter_schema;

fn field(name: &str) -> FieldSchema {
    FieldSchema {
        nullable: true,
        ..FieldSchema::new(name, DataType::Int64)
    }
}

fn add_request(field: &FieldSchema) -> AddCollectionFieldRequest {
    AddCollectionFieldRequest {
        collection_name: "books".into(),
        schema: convert::field_to_proto(field).encode_to_vec().into(),
        ..AddCollectionFieldRequest::default()
    }
}

fn text() -> FieldSchema {
    FieldSchema {
        nullable: true,
        max_length: 10,
        ..FieldSchema::new("text", DataType::VarChar)
    }
}

fn alter_request(pairs: &[(&str, &str)], delete: &[&str]) -> AlterCollectionFieldRequest {
    let pairs = pairs.iter().map(|(key, value)| KeyValuePair {
        key: (*key).into(),
        value: (*value).into(),
    });
    AlterCollectionFieldRequest {
        collection_name: "books".into(),
        field_name: "text".into(),
        properties: pairs.collect(),
        delete_keys: delete.iter().map(|key| (*key).to_owned()).collect(),
        ..AlterCollectionFieldRequest::default()
    }
}

#[tokio::test]
async fn adding_and_altering_a_field_are_one_step() {
    suites(vec![], alter_schema::AddField, |context| async move {
        let request = add_request(&field("year"));
        alter_schema::add_params(&context, "", request)
            .await
            .unwrap()
    })
    .await;
    suites(
        vec![Command::AddCollectionField(add_request(&text()))],
        alter_schema::AlterField,
        |context| async move {
            let request = alter_request(&[("max_length", "20"), ("mmap.enabled", "true")], &[]);
            let params = alter_schema::alter_params(&context, "", request);
            params.await.unwrap()
        },
    )
    .await;
}

#[tokio::test]
async fn fields_keep_their_ids_and_each_change_is_a_version() {
    let deployment = Deployment::with(vec![]).await;
    let gate = deployment.gate().await;
    let schema = || async {
        let view = deployment.context.fresh_view().await.unwrap();
        let entry = view.collection(DatabaseId::DEFAULT, "books").unwrap();
        let updated = entry.info().unwrap().updated_ts;
        (entry.schema().as_ref().clone(), updated)
    };
    let (before, created) = schema().await;
    for field in [field("year"), text()] {
        let command = Command::AddCollectionField(add_request(&field));
        submit(&gate, command).await.unwrap();
    }
    let (after, added) = schema().await;
    let names: Vec<(&str, i64)> = after
        .fields
        .iter()
        .map(|field| (field.name.as_str(), field.id.0))
        .collect();
    let want = [
        ("id", 100),
        ("vector", 101),
        ("year", 103),
        ("text", 104),
        ("$meta", 102),
    ];
    assert_eq!(names, want);
    assert_eq!((before.version, after.version), (0, 2));
    assert!(added > created, "clients must notice");
    let alter = |pairs: &[(&str, &str)], delete: &[&str]| {
        submit_to(
            &gate,
            Command::AlterCollectionField(alter_request(pairs, delete)),
        )
    };
    alter(&[("max_length", "20"), ("mmap_enabled", "true")], &[])
        .await
        .unwrap();
    let (altered, _) = schema().await;
    let text = altered.field("text").unwrap();
    assert_eq!((text.max_length, altered.version), (20, 3));
    assert_eq!(
        text.type_params,
        [("mmap.enabled".to_owned(), "true".to_owned())]
    );
    alter(&[], &["mmap.enabled"]).await.unwrap();
    assert!(
        schema()
            .await
            .0
            .field("text")
            .unwrap()
            .type_params
            .is_empty()
    );

    let error = alter(&[], &[]).await.unwrap_err();
    assert_eq!(error.code.number(), 1100, "{error}");
    let error = alter(&[("max_length", "5")], &[]).await.unwrap_err();
    assert!(error.message.contains("may only grow"), "{error}");
    let again = Command::AddCollectionField(add_request(&field("year")));
    let error = submit(&gate, again).await.unwrap_err();
    assert!(
        error.message.contains("duplicate field name: year"),
        "{error}"
    );
    for command in [create_index(), load_books()] {
        submit(&gate, command).await.unwrap();
    }
    let error = alter(&[("mmap.enabled", "true")], &[]).await.unwrap_err();
    assert_eq!(error.code.number(), 104, "{error}");
    // A text may grow while it is served, and a field may come.
    alter(&[("max_length", "30")], &[]).await.unwrap();
    let late = Command::AddCollectionField(add_request(&field("late")));
    submit(&gate, late).await.unwrap();
    assert_eq!(schema().await.0.version, 6);
}

async fn submit_to(gate: &DdlGate, command: Command) -> Result<Revision> {
    submit(gate, command).await
}
