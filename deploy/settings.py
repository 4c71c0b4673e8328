"""Every setting of every process, read once from the environment; the packages own their fields, this file reads."""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.errors import SettingsError
from deploy.topics import TopicPlan
from stream.settings import Topics, WorkerSettings
from trainer.settings import TrainerSettings

PREFIX = "NEXTCLICK_"
Port = Annotated[int, Ge(0), Le(65535)]


class KafkaSettings(BaseModel):
    """How to reach Kafka, with SASL and TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = Field("127.0.0.1:9092", description="HOST:PORT, several separated by commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="encryption and authentication of the connection"
    )
    ssl_ca_file: Path | None = Field(None, description="certificates to trust; none: the system's")
    ssl_certificate_file: Path | None = Field(None, description="this client's certificate (mutual TLS)")
    ssl_key_file: Path | None = Field(None, description="the key of that certificate")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how to log in, with a SASL protocol"
    )
    sasl_username: str | None = Field(None, description="who logs in")
    sasl_password: SecretStr | None = Field(None, description="the password of that user")

    def aiokafka_options(self) -> dict[str, Any]:
        """Return keyword arguments for aiokafka clients."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
            if self.ssl_certificate_file:
                context.load_cert_chain(self.ssl_certificate_file, self.ssl_key_file)
            options["ssl_context"] = context
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


class Settings(BaseSettings):
    """All settings; `NEXTCLICK_WORKER__TOP_K=10` sets `worker.top_k`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
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
    http: HttpSettings = Field(default_factory=HttpSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)

    def topic_plan(self) -> TopicPlan:
        """Return the topics that this deployment needs."""
        return TopicPlan(
            app=self.worker.app_id,
            clicks=self.topics.clicks,
            recommendations=self.topics.recommendations,
            dead_letters=self.topics.dead_letters,
            models=self.topics.models,
            partitions=self.partitions,
            replication_factor=self.replication_factor,
            session_ttl_ms=self.worker.idle_ms,
        )


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: A value is wrong, or a variable with our prefix names no setting.
    """
    known = {setting.variable for setting in describe(Settings.model_construct())}
    for name in os.environ:
        if (
            name.startswith(PREFIX)
            and name not in known
            and not name.startswith((f"{PREFIX}TEST_", f"{PREFIX}KAFKA_LIBS"))
        ):
            raise SettingsError(f"{name} names no setting; `nextclick settings` lists them all")
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"{PREFIX}{'__'.join(map(str, fault['loc'])).upper()}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        )
        raise SettingsError(faults) from error


@dataclass(frozen=True)
class Setting:
    """One setting as an operator sees it."""

    name: str
    variable: str
    value: str
    source: str
    description: str


def describe(settings: BaseModel, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting with its value, secrets hidden, and where the value came from."""
    for name, field in type(settings).model_fields.items():
        value = (
            getattr(settings, name, None) if name in settings.__dict__ else field.get_default(call_default_factory=True)
        )
        path = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from describe(value, f"{path}.")
            continue
        variable = PREFIX + path.replace(".", "__").upper()
        source = "environment" if variable in os.environ else "default"
        yield Setting(path, variable, "" if value is None else str(value), source, field.description or "")
