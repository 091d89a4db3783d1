//! Tells a new user how to connect.

use std::net::SocketAddr;

/// What is printed once clients can connect to `listen`.
pub fn greeting(listen: SocketAddr) -> String {
    let host = match listen {
        all if all.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    let uri = format!("http://{host}:{}", listen.port());
    format!(
        "Redkite {} serves on {uri}. From Python (pip install pymilvus==3.0.2):\n\n    \
         from pymilvus import MilvusClient\n    \
         client = MilvusClient(\"{uri}\")\n    \
         print(client.list_collections())\n\nCtrl-C stops it.\n\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_an_address_that_can_be_connected_to() {
        let cases = [
            ("127.0.0.1:19530", "\"http://127.0.0.1:19530\""),
            ("0.0.0.0:1", "\"http://127.0.0.1:1\""),
            ("[::1]:2", "\"http://[::1]:2\""),
        ];
        for (listen, uri) in cases {
            let text = greeting(listen.parse().unwrap());
            assert!(text.contains(uri), "{text}");
        }
    }
}
