"""The MES of the torture runs: a process of its own that writes down every message before it acknowledges it.

`python -m tests.torture.subscriber PORT FILE CLIENT_ID` appends one JSON object per message to FILE.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

SUBSCRIBED = "subscribed"
SESSION_S = 86_400


def main() -> None:
    port, path, client_id = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    with path.open("a", encoding="utf-8", buffering=1) as file:

        def note(**entry: object) -> None:
            file.write(json.dumps({"at": time.time(), **entry}) + "\n")

        def on_connect(client: mqtt.Client, *_: object) -> None:
            client.subscribe("#", options=SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=1))

        def on_subscribe(*_: object) -> None:
            note(kind=SUBSCRIBED)

        def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
            kind = message.topic.rpartition("/")[2]
            note(kind=kind, payload=message.payload.decode("utf-8"), qos=message.qos)

        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        client.connect_async("127.0.0.1", port, keepalive=10, clean_start=False, properties=properties)
        client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main()
