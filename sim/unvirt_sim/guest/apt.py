# SPDX-License-Identifier: BSD-2-Clause
"""A private apt: resolves, downloads and verifies Debian packages of any suite without touching the system.

Everything apt writes lives in one folder. The mirror is the one the system's own apt uses (or ``UNVIRT_DEBIAN_MIRROR``); the
signatures of every suite are checked by apt with Debian's keyring, which is renewed through an already verified suite when it is
too old to know the signers of a newer one.
"""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from .errors import SetupError

__all__ = ["Archive", "PrivateApt", "system_mirror"]

KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
BASE_SUITES = ("forky", "trixie", "bookworm")


@dataclass(frozen=True)
class Archive:
    """One package file as apt resolved it."""

    name: str
    version: str
    filename: str
    size: int


def system_mirror():
    """Return the base URI of the Debian mirror the system uses.

    Raises
    ------
    SetupError
        If the system has no apt or its sources name no Debian mirror.
    """
    override = os.environ.get("UNVIRT_DEBIAN_MIRROR")
    if override:
        return override.rstrip("/")
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SetupError("This system has no apt and dpkg to fetch Debian packages with; install QEMU >= 10.1, busybox and passt "
                         "by its own package manager and pass the kernel as --kernel PATH.")
    # apt prints its sources itself, so both source formats and every option in them are understood.
    output = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)"],
        capture_output=True, text=True).stdout
    rows = [line.split("|") for line in output.splitlines()]
    mirrors = [row[0].rstrip("/") for row in rows if len(row) == 4 and row[2:] == ["main", "Packages"] and row[1] in BASE_SUITES]
    named = [mirror for mirror in mirrors if urlparse(mirror).path.rstrip("/").endswith("debian")]
    if not mirrors:
        raise SetupError("The apt sources of this system name no Debian mirror; set UNVIRT_DEBIAN_MIRROR to the base address of one.")
    return (named or mirrors)[0]


class PrivateApt:
    """Apt with its own state below ``folder``, for the given suites of one mirror.

    Parameters
    ----------
    folder
        Where state, lists and archives live; made when missing.
    suites
        Debian suites to read, e.g. ``["forky"]``.
    architecture
        Debian architecture of the packages.
    say
        Called with one line of text now and then.
    """

    def __init__(self, folder, suites, *, architecture="amd64", say=lambda text: None):
        self.folder = Path(folder).absolute()
        self.suites = list(suites)
        self.architecture = architecture
        self.say = say
        self.mirror = system_mirror()
        self.keyring = next((path for path in KEYRINGS if os.path.exists(path)), None)
        if self.keyring is None:
            raise SetupError("Debian's archive keyring is missing; install the package debian-archive-keyring.")
        self.check_dates = True

    # -- plumbing

    def _write_configuration(self, suites):
        for name in ("state/lists/partial", "cache/archives/partial", "log", "etc"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text("")     # nothing is installed: every dependency is resolved
        (self.folder / "etc/debian.sources").write_text(
            f"Types: deb\nURIs: {self.mirror}\nSuites: {' '.join(suites)}\nComponents: main\n"
            f"Architectures: {self.architecture}\nSigned-By: {self.keyring}\n")
        # The file is read after the system's configuration (with its proxies and mirrors' options), so it wins; hooks of the
        # system belong to the system's own state.
        (self.folder / "etc/apt.conf").write_text(
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Pre-Invoke;\n"
            "#clear DPkg::Pre-Install-Pkgs;\n#clear DPkg::Post-Invoke;\n"
            f'APT::Architecture "{self.architecture}";\nAPT::Architectures {{ "{self.architecture}"; }};\n'
            'APT::Sandbox::User "";\nAPT::Install-Recommends "false";\nAPT::Get::Assume-Yes "true";\n'
            'Acquire::Languages "none";\nAcquire::GzipIndexes "true";\nAcquire::Retries "2";\nAcquire::http::Timeout "30";\n'
            'Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";\n'
            f'Acquire::Check-Valid-Until "{"true" if self.check_dates else "false"}";\n'
            f'Dir::State "{self.folder}/state";\nDir::State::status "{self.folder}/status";\nDir::Cache "{self.folder}/cache";\n'
            f'Dir::Cache::archives "{self.folder}/cache/archives";\n'
            f'Dir::Log "{self.folder}/log";\nDir::Etc::sourcelist "{self.folder}/etc/debian.sources";\n'
            'Dir::Etc::sourceparts "/dev/null";\nDir::Etc::preferences "/dev/null";\nDir::Etc::preferencesparts "/dev/null";\n')

    def _run(self, tool, *arguments, cwd=None):
        command = [tool, "-c", str(self.folder / "etc/apt.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "LC_ALL": "C"},
                              stdin=subprocess.DEVNULL)

    def _fail(self, what, result):
        lines = [line[3:].strip() for line in (result.stderr + result.stdout).splitlines() if line.startswith(("E: ", "W: ", "Err:"))]
        reason = next((line for line in lines if line), "no reason given")
        raise SetupError(f"{what} from {self.mirror} failed: {reason.rstrip('.')}.")

    # -- what is offered

    def update(self):
        """Fetch and verify the package lists.

        Raises
        ------
        SetupError
            If the mirror cannot be reached or a signature is not good.
        """
        renewed = False
        while True:
            self._write_configuration(self.suites)
            result = self._run("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
            if result.returncode == 0:
                return
            text = result.stderr + result.stdout
            if "NO_PUBKEY" in text and not renewed:
                self._renew_keyring()
                renewed = True
            elif self.check_dates and re.search(r"is expired|not valid anymore|Valid-Until", text):
                self.say(f"The lists of {self.mirror} are older than their own date of expiry; going on, their signatures are checked.")
                self.check_dates = False
            else:
                self._fail(f"Reading the package lists of {' and '.join(self.suites)}", result)

    def _renew_keyring(self):
        """Get a newer keyring through a suite that the present one verifies."""
        self.say("Debian's keyring here does not know the newer suites; fetching a newer one through a suite it verifies.")
        result = None
        for suite in ("trixie", "bookworm"):
            self._write_configuration([suite])
            result = self._run("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
            if result.returncode == 0:
                folder = self.folder / "keyring"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                result = self._run("apt-get", "download", "debian-archive-keyring", cwd=folder)
                packages = list(folder.glob("*.deb"))
                if result.returncode == 0 and packages:
                    subprocess.run(["dpkg-deb", "-x", packages[0], folder / "tree"], check=True)
                    for name in ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp"):
                        path = folder / "tree/usr/share/keyrings" / name
                        if path.exists():
                            self.keyring = str(path)
                            return
        self._fail("Fetching a newer Debian keyring", result)

    def resolve(self, names):
        """Return the archives of ``names`` and everything they depend on, as on a system with nothing installed."""
        result = self._run("apt-get", "install", "--print-uris", "--download-only", *names)
        if result.returncode:
            self._fail(f"Resolving {' '.join(names)} in {' and '.join(self.suites)}", result)
        archives = []
        for match in re.finditer(r"^'[^']*' (\S+) (\d+)(?: \S+)?$", result.stdout, re.MULTILINE):
            filename, size = match.groups()
            name, version, _ = filename.rsplit("_", 2)
            archives.append(Archive(name, unquote(version), filename, int(size)))
        if not archives:
            self._fail(f"Resolving {' '.join(names)}", result)
        return archives

    def version(self, name):
        """Return the version of ``name`` the suites offer, or None."""
        match = re.search(r"Candidate: (\S+)", self._run("apt-cache", "policy", name).stdout)
        return None if match is None or match[1] == "(none)" else match[1]

    # -- getting it

    def download(self, archives, progress=None):
        """Fetch ``archives``, verified by apt, and return their paths; what is there already is not fetched again.

        Parameters
        ----------
        progress
            Called with the number of bytes present, now and then.
        """
        folder = self.folder / "debs"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{archive.name}={archive.version}" for archive in archives]
        command = ["apt-get", "-c", str(self.folder / "etc/apt.conf"), "download", "-q", *wanted]
        with open(self.folder / "log/download", "w+") as log:
            child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                     env={**os.environ, "LC_ALL": "C"})
            try:
                while child.poll() is None:
                    if progress:
                        progress(sum(path.stat().st_size for path in _present(folder, archives)))
                    time.sleep(0.1)
            except BaseException:
                child.terminate()
                child.wait()
                raise
            if child.returncode:
                log.seek(0)
                self._fail("Downloading packages", subprocess.CompletedProcess(command, child.returncode, log.read(), ""))
        paths = [folder / archive.filename for archive in archives]
        for path, archive in zip(paths, archives):
            if not path.exists() or path.stat().st_size != archive.size:
                raise SetupError(f"The package {archive.filename} did not arrive whole from {self.mirror}; try again.")
        if progress:
            progress(sum(archive.size for archive in archives))
        return paths


def _present(folder, archives):
    for archive in archives:
        for path in (folder / archive.filename, folder / "partial" / archive.filename):
            if path.exists():
                yield path
                break
