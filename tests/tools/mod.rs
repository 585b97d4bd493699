//! Python programs that tests need: each installed on first use, from PyPI or the index that pip is configured with.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Where the programs of one package are, `bin/python` among them; `requirement` is its one version, `NAME==VERSION`.
pub(crate) fn installed(name: &str, requirement: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let version = requirement.split_once("==").unwrap().1;
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let home = tools.join(format!("{name}-{version}"));
    let (programs, complete) = (home.join("bin"), home.join("complete"));
    if complete.exists() {
        return programs;
    }
    // What an interrupted installation left behind is none.
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).unwrap();
    let python = "python3 with its venv module is needed (on Debian: apt-get install python3-venv)";
    run(Command::new("python3").args(["-m", "venv"]).arg(&home), python);
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let install =
        format!("{name} has to be installed once, from PyPI or the index that pip is configured with");
    run(Command::new(programs.join("python")).args(pip).arg(requirement), &install);
    std::fs::write(complete, "").unwrap();
    programs
}

/// Runs a command that must succeed.
fn run(command: &mut Command, otherwise: &str) {
    let output = command.output().unwrap_or_else(|e| panic!("{otherwise}: {command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{otherwise}: {command:?}: {out}{err}");
}
