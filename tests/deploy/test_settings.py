import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.commands.worker import require_device
from deploy.errors import SettingsError
from deploy.settings import KafkaSettings, RetentionSettings, Settings, as_environment, describe
from stream.settings import Topics, WorkerSettings
from tests.deploy.command_line import PREFIX, last_json, nextclick
from trainer.settings import TrainerSettings

FIELDS = {
    "KAFKA__": KafkaSettings,
    "TOPICS__": Topics,
    "RETENTION__": RetentionSettings,
    "WORKER__": WorkerSettings,
    "TRAINER__": TrainerSettings,
}


def shown(**settings: str) -> dict[str, Any]:
    """Return what `nextclick settings --json` says of each variable, by its name without the prefix."""
    result = nextclick("settings", "--json", **settings)
    assert result.exit_code == 0, result.stderr
    return {name.removeprefix(PREFIX): setting for name, setting in last_json(result.stdout).items()}


def read_by_a_shell(path: Path) -> dict[str, str]:
    """Return our variables, without their prefix, that a shell has after it has read a file."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'set -a; . "$0"; env', str(path)], env={}, capture_output=True, text=True, check=True
    )
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name.removeprefix(PREFIX): value for name, value in variables.items() if name.startswith(PREFIX)}


def test_every_setting_is_shown_with_a_meaning() -> None:
    found = shown()

    for prefix, model in FIELDS.items():
        assert {name for name in found if name.startswith(prefix)} == {
            f"{prefix}{field}".upper() for field in model.model_fields
        }
    assert all(setting["description"] for setting in found.values())
    assert {setting["source"] for setting in found.values()} == {"default"}


def test_a_setting_of_the_environment_is_shown_with_its_source() -> None:
    found = shown(PARTITIONS="3", WORKER__TOP_K="7", TRAINER__ROUND_CLICKS="none", TRAINER__HIDDEN_SIZES="[48, 96]")

    assert found["PARTITIONS"] | {"description": ""} == {"value": 3, "source": "environment", "description": ""}
    assert found["WORKER__TOP_K"]["value"] == 7
    assert found["TRAINER__ROUND_CLICKS"]["value"] is None
    assert found["TRAINER__HIDDEN_SIZES"]["value"] == [48, 96]
    assert found["WORKER__BATCH_CAP"]["source"] == "default"


def test_an_empty_variable_sets_nothing() -> None:
    assert shown(WORKER__TOP_K="")["WORKER__TOP_K"] == shown()["WORKER__TOP_K"]


def test_a_shell_reads_what_is_printed_back_to_the_same_settings_and_defaults_stay_defaults(tmp_path: Path) -> None:
    given = {"REGISTRY": "it's a folder # here", "TRAINER__HIDDEN_SIZES": "[32, 96]", "TRAINER__SKIP": "false"}
    printed = nextclick("settings", **given)
    shown_names = re.findall(rf"^(?:# )?{PREFIX}(\w+)=", printed.stdout, re.MULTILINE)
    (tmp_path / "nextclick.env").write_text(printed.stdout)
    read = read_by_a_shell(tmp_path / "nextclick.env")

    assert printed.exit_code == 0
    assert shown_names == list(shown())
    sources = re.findall(rf"\((default|environment)\)\n(?:# )?{PREFIX}", printed.stdout)
    assert (len(sources), sources.count("environment")) == (len(shown_names), len(given))
    assert read.keys() == given.keys()
    values = {name: setting["value"] for name, setting in shown(**given).items()}
    assert {name: setting["value"] for name, setting in shown(**read).items()} == values


def test_what_a_choice_may_be_is_said() -> None:
    assert shown()["KAFKA__SECURITY_PROTOCOL"]["description"].endswith(
        "; one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
    )


def test_a_password_is_never_shown() -> None:
    given = {"KAFKA__SASL_PASSWORD": "open sesame", "KAFKA__SASL_USERNAME": "ali"}
    lines = nextclick("settings", **given).stdout.splitlines()
    (password,) = (line for line in lines if "SASL_PASSWORD" in line)

    assert password.startswith("# NEXTCLICK_KAFKA__SASL_PASSWORD='**********'")
    assert "sesame" not in "".join(lines) + nextclick("settings", "--json", **given).stdout
    wrong = nextclick("settings", **given, KAFKA__SECURITY_PROTOCOL="FTP", TRAINER__HIDDEN_SIZES="[5]")
    assert wrong.exit_code == 2
    assert "sesame" not in wrong.output


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PARTITION", "3", "NEXTCLICK_PARTITION names no setting; did you mean NEXTCLICK_PARTITIONS?"),
        ("COLOUR", "red", "NEXTCLICK_COLOUR names no setting; unset it; `nextclick settings` lists those there are"),
        ("PARTITIONS", "many", "NEXTCLICK_PARTITIONS: Input should be a valid integer"),
        ("PARTITIONS", "0", "NEXTCLICK_PARTITIONS: Input should be greater than or equal to 1, got '0'"),
        ("WORKER__TOP_K", "256", "NEXTCLICK_WORKER__TOP_K: Input should be less than or equal to 255, got '256'"),
        ("LOG_LEVEL", "loud", "NEXTCLICK_LOG_LEVEL: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("TRAINER__HIDDEN_SIZES", "64,96", "expected a list such as [64] or [128,64], got '64,96'"),
        ("TRAINER__HIDDEN_SIZES", "96", "expected a list such as [64] or [128,64], got '96'"),
        ("TRAINER__HIDDEN_SIZES", "[64]", "NEXTCLICK_TRAINER: the last layer has width 64 and embedding_size is 96"),
        ("KAFKA__BOOTSTRAP_SERVERS", "kafka", "expected HOST:PORT, several separated by commas, got 'kafka'"),
        ("KAFKA__SSL_CA_FILE", "/no/ca.pem", "NEXTCLICK_KAFKA__SSL_CA_FILE: Path does not point to a file"),
        ("KAFKA", "{}", "NEXTCLICK_KAFKA names no setting"),
        ("WORKER__IDLE_MS", "60000", "NEXTCLICK_WORKER__IDLE_MS is 60000 and NEXTCLICK_TRAINER__IDLE_MS 1800000"),
    ],
)
def test_a_wrong_setting_is_wrong_usage_and_named_in_one_line(variable: str, value: str, said: str) -> None:
    result = nextclick("settings", **{variable: value})

    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_topics_that_cannot_be_told_apart_are_a_wrong_setting() -> None:
    result = nextclick("topics", "check", TOPICS__MODELS="clicks")

    assert result.exit_code == 2
    assert "NEXTCLICK_TOPICS__… or NEXTCLICK_RETENTION__…: topic names must differ" in result.stderr


def test_retention_is_planned_in_days_and_a_longer_session_takes_a_longer_one() -> None:
    plan = Settings(retention=RetentionSettings(clicks_days=30, recommendations_days=0.5)).topic_plan()
    assert plan.clicks_retention_ms == 30 * 86_400_000
    assert plan.recommendations_retention_ms == 43_200_000

    two_days = dict.fromkeys(("WORKER__IDLE_MS", "TRAINER__IDLE_MS"), str(2 * 86_400_000))
    refused = nextclick("topics", "check", **two_days)
    assert refused.exit_code == 2
    assert "sessions would be lost before they end" in refused.stderr
    idle_ms = 2 * 86_400_000
    longer = Settings(
        worker=WorkerSettings(idle_ms=idle_ms),
        trainer=TrainerSettings(idle_ms=idle_ms),
        retention=RetentionSettings(changelog_days=2),
    )
    assert longer.topic_plan().changelog_retention_ms == 2 * 86_400_000


def test_another_process_gets_the_same_settings_password_included() -> None:
    kafka = KafkaSettings.model_validate({"sasl_username": "ali", "sasl_password": "open sesame"})
    trainer = TrainerSettings(round_clicks=None, feedforward_sizes=(32, 96))
    settings = Settings.model_construct(kafka=kafka, trainer=trainer, registry="a place")
    environment = as_environment(settings)

    assert environment["KAFKA__SASL_PASSWORD"] == "open sesame"
    seen = shown(**environment)
    expected = {setting.variable.removeprefix(PREFIX): setting.value for setting in describe(settings)}
    assert {name: setting["value"] for name, setting in seen.items()} == expected


def test_both_clients_are_given_user_and_password() -> None:
    kafka = KafkaSettings.model_validate(
        {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "ali", "sasl_password": "open sesame"}
    )

    assert kafka.aiokafka_options() == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ali",
        "sasl_plain_password": "open sesame",
    }
    assert kafka.librdkafka_options() == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ali",
        "sasl.password": "open sesame",
    }


def test_encryption_verifies_the_broker_and_plain_text_has_no_context() -> None:
    encrypted = KafkaSettings.model_validate({"security_protocol": "SSL"}).aiokafka_options()["ssl_context"]

    assert encrypted.verify_mode is ssl.CERT_REQUIRED
    assert encrypted.check_hostname
    assert "ssl_context" not in KafkaSettings().aiokafka_options()


def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    kafka = KafkaSettings.model_validate({"security_protocol": "SSL", "ssl_ca_file": tmp_path / "ca.pem"})

    with pytest.raises(SettingsError, match=r"a file for TLS cannot be used .*NEXTCLICK_KAFKA__SSL_CA_FILE"):
        kafka.aiokafka_options()
    assert kafka.librdkafka_options()["ssl.ca.location"] == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_login_without_a_password_is_a_wrong_setting(protocol: str) -> None:
    kafka = KafkaSettings.model_validate({"security_protocol": protocol, "sasl_username": "ali"})

    with pytest.raises(SettingsError, match=f"{protocol} needs a user: set NEXTCLICK_KAFKA__SASL_USERNAME"):
        kafka.librdkafka_options()


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_worker_refuses_a_device_that_is_not_here(device: str) -> None:
    require_device("cpu")

    with pytest.raises(
        SettingsError, match=f"NEXTCLICK_WORKER__DEVICE: {device} cannot be used here .*; cpu always can"
    ):
        require_device(device)
