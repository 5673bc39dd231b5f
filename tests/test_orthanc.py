"""A PACS stores a study with the objects that were written on it, and gives them back unchanged."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pydicom
import pytest
from dicom_scenes import ALGORITHM, hand, write_scene

from rectal_nnformer.dicom.contours import write_contours
from rectal_nnformer.dicom.lesions import Lesion
from rectal_nnformer.dicom.segmentations import write_segmentation

ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ORTHANC is None, reason="Orthanc (Debian: apt-get install orthanc) is not installed"),
]
SECONDS_TO_START = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def orthanc(tmp_path):
    """Ask a running Orthanc on the loopback: a function of path and of data to post."""
    port = free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    # Nothing of the loopback goes through a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path, data=None):
        with opener.open(f"http://127.0.0.1:{port}/{path}", data, timeout=30) as answer:
            return answer.read()

    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        try:
            for _ in range(10 * SECONDS_TO_START):
                try:
                    ask("system")
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                    time.sleep(0.1)
            yield ask
        finally:
            process.terminate()
            process.wait(30)


def test_a_study_with_its_objects_comes_back_unchanged(tmp_path, orthanc):
    series = write_scene(tmp_path / "t2")
    ball, bar, _ = hand(series)
    lesions = [Lesion("lesion 1", ball), Lesion("lesion 2", bar)]
    write_segmentation(tmp_path / "seg.dcm", series, lesions, ALGORITHM)
    write_contours(tmp_path / "rtstruct.dcm", series, lesions, ALGORITHM)
    for path in (*series.files, tmp_path / "seg.dcm", tmp_path / "rtstruct.dcm"):
        stored = json.loads(orthanc("instances", path.read_bytes()))
        assert stored["Status"] == "Success"
        (tmp_path / "back.dcm").write_bytes(orthanc(f"instances/{stored['ID']}/file"))
        sent, back = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "back.dcm")
        assert sent == back and sent.file_meta == back.file_meta
    (study,) = json.loads(orthanc("studies"))
    assert len(json.loads(orthanc("patients"))) == 1
    kinds = [json.loads(orthanc(f"series/{uid}")) for uid in json.loads(orthanc("series"))]
    assert sorted(kind["MainDicomTags"]["Modality"] for kind in kinds) == ["MR", "RTSTRUCT", "SEG"]
    assert {kind["ParentStudy"] for kind in kinds} == {study}
