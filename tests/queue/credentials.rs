//! Without credentials a gate runs, and says where it looked for them.

use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Child;
use std::process::Stdio;

use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;

use crate::gate::Site;

/// Ended with the test.
struct Gate(Child);

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn missing_credentials_are_said_with_where_they_were_looked_for() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::new(&queue);
    let mut command = site.run();
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").stderr(Stdio::piped());
    let mut gate = Gate(command.spawn().unwrap());
    let mut lines = BufReader::new(gate.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line.contains("sqs:ReceiveMessage")).unwrap();
    assert!(said.contains("no AWS credentials") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert_eq!(queue.counts().receives, 0);
}
