use super::*;

fn id() -> FieldSchema {
    FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    }
}

fn vector() -> FieldSchema {
    FieldSchema {
        dim: 8,
        ..FieldSchema::new("vector", DataType::FloatVector)
    }
}

fn with_default(data_type: DataType, value: Value) -> FieldSchema {
    FieldSchema {
        default_value: Some(value),
        max_length: if data_type == DataType::VarChar {
            16
        } else {
            0
        },
        ..FieldSchema::new(format!("with_default_{data_type}"), data_type)
    }
}

fn everything() -> CollectionSchema {
    let mut text = FieldSchema::new("text", DataType::VarChar);
    text.max_length = 100;
    text.nullable = true;
    text.type_params = vec![("mmap.enabled".to_owned(), "true".to_owned())];
    let mut clustered = FieldSchema::new("when", DataType::Int64);
    clustered.is_clustering_key = true;
    clustered.is_partition_key = true;
    clustered.description = "seconds".to_owned();
    CollectionSchema {
        description: "all of it".to_owned(),
        fields: vec![
            id(),
            vector(),
            text,
            clustered,
            with_default(DataType::Bool, Value::Bool(true)),
            with_default(DataType::Int8, Value::Int(-128)),
            with_default(DataType::Int16, Value::Int(300)),
            with_default(DataType::Int32, Value::Int(i64::from(i32::MAX))),
            with_default(DataType::Int64, Value::Int(i64::MIN)),
            with_default(DataType::Float, Value::Double(0.5)),
            with_default(DataType::Double, Value::Double(0.1)),
            with_default(DataType::VarChar, Value::Str("x".to_owned())),
        ],
        enable_dynamic_field: true,
        version: 3,
    }
}

fn client(fields: Vec<proto::FieldSchema>) -> proto::CollectionSchema {
    proto::CollectionSchema {
        name: "c".to_owned(),
        fields,
        ..Default::default()
    }
}

fn decode(message: &proto::CollectionSchema) -> Result<ClientSchema> {
    decode_client(message.encode_to_vec().into())
}

#[test]
fn a_prepared_schema_comes_back() {
    let schema = everything().prepare().unwrap();
    let message = to_proto("c", &schema);
    assert_eq!(message.name, "c");
    let message = proto::CollectionSchema::decode(&*message.encode_to_vec()).unwrap();
    assert_eq!(from_proto(message).unwrap(), schema);
}

#[test]
fn users_do_not_see_the_dynamic_field_but_learn_that_there_is_one() {
    let schema = everything().prepare().unwrap();
    let message = to_client("c", &schema);
    assert!(message.enable_dynamic_field);
    assert_eq!(message.fields.len(), schema.fields.len() - 1);
    assert!(
        message
            .fields
            .iter()
            .all(|field| field.name != limits::DYNAMIC_FIELD)
    );
}

#[test]
fn type_params_are_text_on_the_wire() {
    let message = to_client("c", &everything());
    let params = |name: &str| {
        let field = message
            .fields
            .iter()
            .find(|field| field.name == name)
            .unwrap();
        kv::into_map(field.type_params.clone())
    };
    assert_eq!(params("vector")["dim"], "8");
    assert_eq!(params("text")["max_length"], "100");
    assert_eq!(params("text")["mmap.enabled"], "true");
    assert!(params("id").is_empty());
}

#[test]
fn default_values_use_the_member_of_the_fields_type() {
    let data = |field: FieldSchema| field_to_proto(&field).default_value.unwrap().data.unwrap();
    assert_eq!(
        data(with_default(DataType::Int8, Value::Int(7))),
        Data::IntData(7)
    );
    assert_eq!(
        data(with_default(DataType::Int64, Value::Int(7))),
        Data::LongData(7)
    );
    assert_eq!(
        data(with_default(DataType::Float, Value::Double(0.5))),
        Data::FloatData(0.5)
    );
    assert_eq!(
        data(with_default(DataType::Double, Value::Double(0.5))),
        Data::DoubleData(0.5)
    );
    // A client that only knows int64 may use it for a narrower field.
    let mut message = field_to_proto(&with_default(DataType::Int8, Value::Int(7)));
    message.default_value = Some(proto::ValueField {
        data: Some(Data::LongData(7)),
    });
    assert_eq!(
        field_from_proto(message.clone()).unwrap().default_value,
        Some(Value::Int(7))
    );
    message.default_value = Some(proto::ValueField { data: None });
    assert_eq!(field_from_proto(message).unwrap().default_value, None);
}

#[test]
fn a_clients_schema_is_read_with_its_name() {
    let mut message = client(vec![field_to_proto(&id()), field_to_proto(&vector())]);
    message.properties = vec![kv::pair("ttl", 3)];
    message.version = 9;
    let read = decode(&message).unwrap();
    assert_eq!(read.name, "c");
    assert_eq!(read.properties, [("ttl".to_owned(), "3".to_owned())]);
    assert_eq!(read.schema.fields, [id(), vector()]);
    assert_eq!(read.schema.version, 0);
    assert!(decode_client(Bytes::from_static(b"\xff\xff")).is_err());
    let field = decode_client_field(field_to_proto(&vector()).encode_to_vec().into()).unwrap();
    assert_eq!(field, vector());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let typed = |data_type: proto::DataType| proto::FieldSchema {
        name: "odd".to_owned(),
        data_type: data_type as i32,
        ..Default::default()
    };
    let mut schemas = vec![
        (
            client(vec![typed(proto::DataType::ArrayOfVector)]),
            "ArrayOfVector",
        ),
        (client(vec![typed(proto::DataType::Array)]), "Array"),
        (client(vec![typed(proto::DataType::None)]), "None"),
        (
            client(vec![proto::FieldSchema {
                is_dynamic: true,
                ..typed(proto::DataType::Json)
            }]),
            "cannot explicitly set a field as a dynamic field",
        ),
    ];
    let mut with = client(Vec::new());
    with.functions = vec![proto::FunctionSchema {
        name: "bm25".to_owned(),
        ..Default::default()
    }];
    schemas.push((with, "bm25"));
    let mut with = client(Vec::new());
    with.struct_array_fields = vec![Default::default()];
    schemas.push((with, "ArrayOfStruct"));
    let mut with = client(Vec::new());
    with.external_source = "s3://x".to_owned();
    schemas.push((with, "external"));
    let mut with = client(Vec::new());
    with.enable_namespace = true;
    schemas.push((with, "namespaces"));
    for (message, want) in schemas {
        let error = decode(&message).unwrap_err();
        assert_eq!(error.code.number(), 1100);
        assert!(error.is_input_error);
        assert!(
            error.message.contains(want),
            "{} does not contain {want}",
            error.message
        );
    }
    assert!(
        data_type_from_proto(9_999, "f")
            .unwrap_err()
            .message
            .contains("Unknown(9999)")
    );
}

#[test]
fn bad_parameters_name_the_field() {
    let mut cases = Vec::new();
    for dim in ["x", "-1", ""] {
        let mut field = field_to_proto(&vector());
        field.type_params = vec![kv::pair(DIM, dim)];
        cases.push((field, "vector"));
    }
    let mut field = field_to_proto(&vector());
    field.type_params.clear();
    cases.push((field, "dimension is not defined"));
    for length in ["0", "-5", "many"] {
        let mut field = field_to_proto(&with_default(DataType::VarChar, Value::Null));
        field.type_params = vec![kv::pair(MAX_LENGTH, length)];
        cases.push((field, "with_default_VarChar"));
    }
    let mut field = field_to_proto(&id());
    field.default_value = Some(proto::ValueField {
        data: Some(Data::BytesData(Bytes::new())),
    });
    cases.push((
        field,
        "type (Int64) of field (id) is not equal to the type(JSON)",
    ));
    for (field, want) in cases {
        let error = field_from_proto(field).unwrap_err();
        assert_eq!(error.code.number(), 1100);
        assert!(
            error.message.contains(want),
            "{} does not contain {want}",
            error.message
        );
    }
}

#[test]
fn every_data_type_and_consistency_level_comes_back() {
    use ConsistencyLevel::{Bounded, Customized, Eventually, Session, Strong};
    for number in 0..300 {
        if let Ok(data_type) = data_type_from_proto(number, "f") {
            assert_eq!(data_type_to_proto(data_type) as i32, number);
            assert_eq!(data_type_name(number), data_type.name());
        }
    }
    for level in [Strong, Session, Bounded, Eventually, Customized] {
        let number = consistency_to_proto(level) as i32;
        assert_eq!(consistency_from_proto(number).unwrap(), level);
    }
    assert!(consistency_from_proto(5).is_err());
}
