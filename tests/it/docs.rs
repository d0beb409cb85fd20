//! Documents that state facts of the code are compared with it.

use std::path::Path;

use agentbus_proto::Code;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_error_code_is_explained_with_its_numbers() {
    let page = read("docs/errors.md");
    for code in Code::ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", code.as_str())));
        let row = row.unwrap_or_else(|| panic!("docs/errors.md does not explain {}", code.as_str()));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let grpc = format!("{:?}", code.grpc()).to_lowercase();
        assert_eq!(cells[2], code.http_status().to_string(), "HTTP status of {code}");
        assert_eq!(cells[3].replace('_', "").to_lowercase(), grpc, "gRPC status of {code}");
        assert_eq!(cells[4], code.exit().to_string(), "exit code of {code}");
    }
}

#[test]
fn every_error_code_in_the_page_exists() {
    for line in read("docs/errors.md").lines().filter(|line| line.starts_with("| `")) {
        let code = line.split('`').nth(1).unwrap_or_default();
        assert!(code.parse::<Code>().is_ok(), "`{code}` is no error code");
    }
}
