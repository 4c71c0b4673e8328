"""Where the real Apache Kafka comes from: a Java 17 runtime, and jars fetched with Maven."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from deploy.errors import BrokerError

KAFKA_VERSION: Final = "4.3.1"
JAVA_MAJOR: Final = 17
DEFAULT_JARS: Final = Path(__file__).parent / "kafka" / "libs"

_POM: Final = Path(__file__).parent / "kafka" / "pom.xml"
_BROKER_JAR: Final = f"kafka_2.13-{KAFKA_VERSION}.jar"
_FETCH_DEADLINE_S: Final = 600.0
_OUTPUT_LINES: Final = 20


def find_java() -> str:
    """Return the path of the `java` on the search path, once it is known to run Kafka 4.

    Raises:
        BrokerError: There is none, or it is older than 17.
    """
    java = shutil.which("java")
    advice = f"install a Java {JAVA_MAJOR} runtime (for example openjdk-{JAVA_MAJOR}-jre-headless)"
    if java is None:
        raise BrokerError(f"Apache Kafka needs Java and no `java` is on the search path: {advice}")
    answer = subprocess.run(  # noqa: S603 - a path found on the search path
        [java, "-version"], capture_output=True, text=True, check=False
    ).stderr
    version = answer.split('"')[1] if answer.count('"') > 1 else "0"
    if int(version.split(".")[0].split("-")[0] or 0) < JAVA_MAJOR:
        raise BrokerError(f"Apache Kafka {KAFKA_VERSION} needs Java {JAVA_MAJOR}, {java} is {version}: {advice}")
    return java


def find_jars(libs: Path = DEFAULT_JARS) -> Path:
    """Return the folder of the jars once it is known to hold this Kafka.

    Raises:
        BrokerError: It does not; says how to fetch them.
    """
    libs = libs.resolve()
    if not (libs / _BROKER_JAR).is_file():
        raise BrokerError(
            f"no Apache Kafka {KAFKA_VERSION} in {libs}: fetch its jars with\n"
            f"  mvn -f {_POM} dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory={libs}"
        )
    return libs


def fetch_jars(libs: Path = DEFAULT_JARS, *, deadline_s: float = _FETCH_DEADLINE_S) -> Path:
    """Download the jars (about 60 MB) with Maven into `libs`, unless they are there; returns the folder.

    Raises:
        BrokerError: Maven is missing or failed.
    """
    try:
        return find_jars(libs)
    except BrokerError:
        maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError("fetching Apache Kafka needs Maven and no `mvn` is on the search path: install maven")
    libs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="fetching-") as folder:
        _run_maven(maven, Path(folder).resolve(), deadline_s)
        # The broker's own jar moves last, so that a fetch cut short is never taken for a whole one.
        for jar in sorted(Path(folder).iterdir(), key=lambda jar: jar.name == _BROKER_JAR):
            jar.replace(libs / jar.name)
    return find_jars(libs)


def _run_maven(maven: str, folder: Path, deadline_s: float) -> None:
    """Copy the broker and everything that it needs into `folder`."""
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    try:
        done = subprocess.run(  # noqa: S603 - built from constants and our own paths
            [maven, "-q", "-B", "-f", str(_POM), *goal],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"Maven did not fetch Apache Kafka within {deadline_s:.0f} s") from error
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()[:_OUTPUT_LINES]
        raise BrokerError("Maven could not fetch Apache Kafka:\n" + "\n".join(lines))


if __name__ == "__main__":
    import sys

    try:
        sys.stdout.write(f"Apache Kafka {KAFKA_VERSION} is in {fetch_jars()}\n")
    except BrokerError as error:
        sys.exit(str(error))
