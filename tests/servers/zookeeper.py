"""A real ZooKeeper: `python -m tests.servers.zookeeper` makes sure that there is one, and a Java to run it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from tests.servers.debian import install, unpacked
from tests.servers.process import Server

PACKAGES = ("libzookeeper-java", "libslf4j-java", "libdropwizard-metrics-java", "libsnappy-java")
JARS = ("zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-simple", "metrics-core", "snappy-java")
TICK = 0.25


def java() -> str:
    """The path of Java."""
    return install("java", "default-jre-headless")


def jars() -> list[Path]:
    """Those that a server of its own takes, out of Debian's packages."""
    return [unpacked("zookeeper", *PACKAGES) / f"usr/share/java/{jar}.jar" for jar in JARS]


class ZooKeeper(Server):
    """A server of its own. Sessions time out after 0.5 to 5 seconds."""

    name = "zookeeper"

    def command(self) -> list[str]:
        settings = self.folder / "zoo.cfg"
        settings.write_text(
            f"tickTime={TICK * 1000:.0f}\n"
            f"dataDir={self.folder}/data\n"
            f"clientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\n"
            "maxClientCnxns=0\n"
            "admin.enableServer=false\n"
            "4lw.commands.whitelist=*\n"
        )
        classes = ":".join(map(str, jars()))
        flags = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Dzookeeper.forceSync=no")
        return [java(), *flags, "-cp", classes, "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(settings)]

    def answers(self) -> bool:
        return self.ask("ruok") == "imok"

    def ask(self, word: str) -> str:
        """Say one of its four-letter words."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            connection.sendall(word.encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer.decode()


if __name__ == "__main__":
    try:
        print(java(), *jars())
    except RuntimeError as error:
        sys.exit(str(error))
