"""Whether the coordinator has let a site's node in: asked as the node would, and nothing is begun.

Flower looks a node's key up before it looks at how often the node means to be heard of. So who asks
to begin, and to be heard of never, is told which of the two is wrong; a node that runs under that
key meanwhile goes on.
"""

import ssl
from pathlib import Path

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.service import ADMISSION, NODE, address_of, node_key_of
from not_core.errors import ServiceError
from not_core.service.bounds import Client

SECONDS = 10.0


def check(home: Path) -> None:
    """Ask the coordinator whether this node may take part.

    Args:
        home: Of a site that has a node.

    Raises:
        ServiceError: It may not, or that cannot be found out.
        KeyFileError: The node's key cannot be read.
        HomeError: The coordinator's address cannot.
    """
    node = home / NODE
    code = _asked(home)
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        raise ServiceError(
            "the coordinator has not admitted this node, or has taken it back; give its operator "
            f"{node / ADMISSION}"
        )
    if code == httpx.codes.UNAUTHORIZED:
        raise ServiceError(
            "the coordinator does not believe what this node signs; compare this machine's clock "
            "with the coordinator's"
        )
    if code != ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
        raise ServiceError(
            f"what answers for the coordinator cannot say whether this node is admitted ({code}); "
            "ask its operator whether all of it runs"
        )


def _asked(home: Path) -> int:
    """Flower's code for what is wrong, or else that of HTTP; 0 where nobody answers."""
    node = home / NODE
    private = node_key_of(node / "key")
    asked = ActivateNodeRequest(
        public_key=public_key_to_bytes(private.public_key()), heartbeat_interval=0
    )
    address = address_of(home)
    believed = ssl.create_default_context(cafile=str(node / "coordinator.pem"))
    signing = NodeAuthHttpInterceptor(private, private.public_key())
    try:
        with Client(verify=believed, timeout=SECONDS, trust_env=False) as client:
            request = client.build_request(
                "POST",
                f"https://{address}/v1/fleet/activate-node",
                content=asked.SerializeToString(),
                headers={"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE},
            )
            context = ProtobufRequestContext("", asked, request)
            answer = signing.intercept(context, lambda one: client.send(one.request))
    except httpx.HTTPError:
        return 0
    error = FlowerError.from_json(answer.text)
    return answer.status_code if error is None else error.code
