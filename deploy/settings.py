"""Every setting of every process, read once from the environment; the packages own their fields, this file reads."""

import difflib
import json
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.errors import SettingsError
from deploy.topics import TopicPlan
from model.clicks import DAY_MS
from stream.settings import Topics, WorkerSettings
from trainer.settings import TrainerSettings

PREFIX = "NEXTCLICK_"
NOTHING = "none"
# Variables that the tests of this repository read.
NOT_SETTINGS = {f"{PREFIX}{name}" for name in ("TEST_DATA", "KAFKA_LIBS", "REQUIRE_KAFKA")}
ADDRESSES = re.compile(r"[^\s,]+:\d{1,5}(,[^\s,]+:\d{1,5})*")
Port = Annotated[int, Ge(0), Le(65535)]
Days = Annotated[float, Gt(0)]


class KafkaSettings(BaseModel):
    """How to reach Kafka, with SASL and TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = Field("127.0.0.1:9092", description="HOST:PORT, several separated by commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="encryption and authentication of the connection"
    )
    ssl_ca_file: FilePath | None = Field(None, description="certificates to trust; none: the system's")
    ssl_certificate_file: FilePath | None = Field(None, description="this client's certificate (mutual TLS)")
    ssl_key_file: FilePath | None = Field(None, description="the key of that certificate")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how to log in, with a SASL protocol"
    )
    sasl_username: str | None = Field(None, description="who logs in")
    sasl_password: SecretStr | None = Field(None, description="the password of that user")
    timeout_s: Annotated[float, Gt(0)] = Field(15.0, description="longest wait of a command for one answer (seconds)")

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, servers: str) -> str:
        if not ADDRESSES.fullmatch(servers):
            raise ValueError("expected HOST:PORT, several separated by commas")
        return servers

    def aiokafka_options(self) -> dict[str, Any]:
        """Return keyword arguments for aiokafka clients."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self._password()
        return options

    def librdkafka_options(self) -> dict[str, Any]:
        """Return the configuration of confluent-kafka clients."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            files = {
                "ssl.ca.location": self.ssl_ca_file,
                "ssl.certificate.location": self.ssl_certificate_file,
                "ssl.key.location": self.ssl_key_file,
            }
            options |= {name: str(path) for name, path in files.items() if path}
        if self.security_protocol.startswith("SASL"):
            options |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.sasl_username,
                "sasl.password": self._password(),
            }
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
            if self.ssl_certificate_file:
                context.load_cert_chain(self.ssl_certificate_file, self.ssl_key_file)
        except OSError as error:
            names = ", ".join(f"{PREFIX}KAFKA__SSL_{name}_FILE" for name in ("CA", "CERTIFICATE", "KEY"))
            raise SettingsError(f"a file for TLS cannot be used ({error}): look at {names}") from error
        return context

    def _password(self) -> str:
        if self.sasl_username is None or self.sasl_password is None:
            raise SettingsError(
                f"{self.security_protocol} needs a user: set {PREFIX}KAFKA__SASL_USERNAME and"
                f" {PREFIX}KAFKA__SASL_PASSWORD"
            )
        return self.sasl_password.get_secret_value()


class HttpSettings(BaseModel):
    """Where metrics and health are served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    worker_port: Port = Field(9464, description="port of a worker; 0 takes a free one")
    trainer_port: Port = Field(9465, description="port of the trainer; 0 takes a free one")


class RetentionSettings(BaseModel):
    """For how long Kafka keeps records; a topic that keeps them longer is as good."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clicks_days: Days = Field(7, description="of clicks; no trainer can look further back")
    recommendations_days: Days = Field(1, description="of answers")
    dead_letters_days: Days = Field(14, description="of records that are not clicks")
    changelog_days: Days = Field(
        1, description="of sessions, after their last click; at least NEXTCLICK_WORKER__IDLE_MS"
    )


class Settings(BaseSettings):
    """All settings; `NEXTCLICK_WORKER__TOP_K=10` sets `worker.top_k`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        env_parse_none_str=NOTHING,
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    registry: str = Field("registry", description="URL of the versions: a folder, or s3://… with the extra `s3`")
    partitions: Annotated[int, Ge(1)] = Field(8, description="partitions of the clicks topic and those beside it")
    replication_factor: Annotated[int, Ge(1)] = Field(1, description="copies of every topic; 3 in production")
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: json unless on a terminal")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line logged")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    topics: Topics = Field(default_factory=Topics)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)

    @model_validator(mode="after")
    def _sessions_end_alike(self) -> Self:
        if self.worker.idle_ms != self.trainer.idle_ms:
            raise ValueError(
                f"{PREFIX}WORKER__IDLE_MS is {self.worker.idle_ms} and {PREFIX}TRAINER__IDLE_MS {self.trainer.idle_ms}:"
                " sessions must end alike where they are served and where they are learned from; set both"
            )
        return self

    def topic_plan(self) -> TopicPlan:
        """Return the topics that this deployment needs.

        Raises:
            SettingsError: They cannot be told apart, or would forget sessions before these end.
        """
        try:
            return self._topic_plan()
        except ValueError as error:
            raise SettingsError(f"{PREFIX}TOPICS__… or {PREFIX}RETENTION__…: {error}") from error

    def _topic_plan(self) -> TopicPlan:
        return TopicPlan(
            app=self.worker.app_id,
            clicks=self.topics.clicks,
            recommendations=self.topics.recommendations,
            dead_letters=self.topics.dead_letters,
            models=self.topics.models,
            partitions=self.partitions,
            replication_factor=self.replication_factor,
            clicks_retention_ms=_milliseconds(self.retention.clicks_days),
            recommendations_retention_ms=_milliseconds(self.retention.recommendations_days),
            dead_letters_retention_ms=_milliseconds(self.retention.dead_letters_days),
            changelog_retention_ms=_milliseconds(self.retention.changelog_days),
            session_ttl_ms=self.worker.idle_ms,
        )


def _milliseconds(days: float) -> int:
    return int(days * DAY_MS)


def load_settings(**given: Any) -> Settings:
    """Read the environment.

    Args:
        given: Values that are stronger than the environment, in groups as in `Settings`.

    Raises:
        SettingsError: A value is wrong, or a variable with our prefix names no setting.
    """
    fields = {_variable(path): field for path, field in _fields(Settings)}
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and name not in fields.keys() | NOT_SETTINGS:
            close = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
            advice = f"did you mean {close[0]}?" if close else "unset it; `nextclick settings` lists those there are"
            raise SettingsError(f"{name} names no setting; {advice}")
        if name in fields and isinstance(fields[name].default, tuple) and not _is_list(value):
            raise SettingsError(f"{name}: expected a list such as [64] or [128,64], got {value!r}")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(faults(error)) from error


def _is_list(value: str) -> bool:
    try:
        return isinstance(json.loads(value or "[]"), list)
    except ValueError:
        return False


def faults(error: ValidationError) -> str:
    """Return what is wrong with which variables; a group's contents, which may hold a password, are not shown."""
    return "; ".join(
        f"{_variable(tuple(map(str, fault['loc'])))}: {fault['msg'].removeprefix('Value error, ')}"
        + ("" if isinstance(fault["input"], dict) else f", got {fault['input']!r}")
        for fault in error.errors()
    )


def _fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield the path and the declaration of every setting."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, (*above, name))
        else:
            yield (*above, name), field


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(path).upper()


@dataclass(frozen=True)
class Setting:
    """One setting as an operator sees it.

    Attributes:
        name: Such as `worker.top_k`.
        variable: Such as `NEXTCLICK_WORKER__TOP_K`.
        value: As plain JSON; a password is replaced by asterisks.
        source: `environment`, `preset` or `default`.
        description: What it means.
        is_secret: Whether `value` is hidden.
    """

    name: str
    variable: str
    value: Any
    source: str
    description: str
    is_secret: bool

    @property
    def text(self) -> str:
        """The value as the variable's text."""
        return _as_text(self.value)


def describe(settings: Settings) -> Iterator[Setting]:
    """Yield every setting with its value, secrets hidden, and where the value came from."""
    plain = settings.model_dump(mode="json")
    for path, field in _fields(type(settings)):
        yield Setting(
            name=".".join(path),
            variable=_variable(path),
            value=reduce(lambda group, name: group[name], path, plain),
            source=_source(path, field, reduce(getattr, path, settings)),
            description=_meaning(field),
            is_secret=isinstance(reduce(getattr, path, settings), SecretStr),
        )


def _meaning(field: FieldInfo) -> str:
    """Return what a setting means, and what it may be where that is a choice."""
    choices = [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
    return f"{field.description}; one of {', '.join(choices)}" if choices else field.description or ""


def _source(path: tuple[str, ...], field: FieldInfo, value: Any) -> str:
    if os.environ.get(_variable(path)):
        return "environment"
    return "preset" if path[0] == "trainer" and value != field.default else "default"


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables, without their prefix, that give another process these settings, passwords included."""
    secrets = {
        _variable(path): value.get_secret_value()
        for path, _ in _fields(type(settings))
        if isinstance(value := reduce(getattr, path, settings), SecretStr)
    }
    texts = {setting.variable: setting.text for setting in describe(settings)}
    return {variable.removeprefix(PREFIX): text for variable, text in (texts | secrets).items()}


def _as_text(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value)
