"""What compressed messages may take for known (RFC 1950 section 2.2, preset dictionaries): words of a result's JSON.

A compressed stream names its dictionary by its Adler-32, so both ends stay compatible: what has travelled once is never
changed; a better dictionary is added under its own checksum, readers first. Deflate finds what stands near the end
cheapest, so what is commonest stands last.
"""

from __future__ import annotations

import zlib
from typing import Final

_V1: Final = (
    b'"kind":"dropped","counts":{"radio":1,"latency":1,"failed":1},"first_seq":1,"last_seq":2}}'
    b'"kind":"missed","count":1,"first":"2026-,"last":"2026-,"reason":"agent_off"}}clock_setturn_missedplan_spentno_storage'
    b'"kind":"recovery","rung":1,"action":"re-register","before":{"condition":"not_registered","detail":"the modem says'
    b': searching","radio":{"registration":"searching"}},"after":{"condition":"healthy","detail":"'
    b"no_leasebusyrefusedtimeoutunreachablename_not_resolvedlink_downlink_lostno_addresswrong_pathno_modemmodem_silent"
    b"modem_errorno_registrationsim_absentsim_lockedquota_reachedbudget_shorttool_missingtool_failedinterruptedagent_error"
    b'"outcome":{"kind":"failed","reason":"no_lease","detail":"no responder answered within '
    b'"upload_failure":"budget_short","invalid":["not_cellular_4g","radio_unknown","roaming","bytes_not_accounted",'
    b'"other_interface_used","gap_in_transfer","cut_short"]'
    b'"kind":"plan","day":"2026-","quota_day_mb":4000,"quota_month_mb":60000,"spent_day_bytes":,"spent_month_bytes":,'
    b'"left_bytes":,"left_by_hand_bytes":,"allowance_bytes":,"runs_planned":8,"runs_made":,"runs_dropped":,'
    b'"uploads_dropped":,"remaining_bytes":}}'
    b'"kind":"latency","udp":{"tool":"irtt","sent":50,"received":50,"loss_percent":0.0,"rtt_min_ms":,"rtt_mean_ms":,'
    b'"rtt_median_ms":,"rtt_max_ms":,"jitter_ms":},"loss_up_percent":0.0,"loss_down_percent":0.0,"icmp":{"tool":"ping",'
    b'"sent":10,"received":10,"loss_percent":0.0,"rtt_min_ms":,"rtt_mean_ms":,"rtt_max_ms":},"interface_bytes":}}'
    b'"job":{"name":"latency","measurement":"latency"'
    b'"kind":"throughput","download":{"steady_mbps":,"mbps":,"payload_bytes":,"elapsed_s":5.0,"omit_s":1.0,"streams":4,'
    b'"congestion":"cubic","retransmits":,"interval_s":0.5,"interval_mbps":[,"interface_bytes":,'
    b'"other_interfaces_bytes":},"upload":{"steady_mbps":'
    b'"radio_before":{"registration":"home","technology":"lte"},"radio_after":{'
    b'"job":{"name":"throughput-light","measurement":"throughput","due":"2026-'
    b'"server":{"host":"203.0.113.","ports":[5201,5202],"responder":"","lease":"'
    b'"estimated_error_ms":"registration":"roaming","technology":"umts","technology":"nr5g-nsa","rscp_dbm":-"lac":'
    b'"nr_band":78,"nr_arfcn":,"nr_pci":,"nr_rsrp_dbm":-,"nr_rsrq_db":-,"nr_sinr_db":"carriers":2,"temperature_c":4'
    b'"samples":10,"lowest":{"rsrp_dbm":-1,"rsrq_db":-1,"sinr_db":,"rssi_dbm":-},"highest":{"rsrp_dbm":-9,"rsrq_db":-'
    b'"operator":"VinaPhone","mcc":"452","mnc":"02"operator":"MobiFone","mcc":"452","mnc":"01"Vietnamobile'
    b'[{"probe_id":"lc-","spool_id":"","seq":1,"site":"","link":"viettel","job":{"name":"radio","measurement":"radio",'
    b'"due":"2026-"},"used":{"interface":"wwan0","source_address":"10.","operator":"Viettel","iccid_sha256":"","modem":'
    b'"EC25"},"started_at":"2026-01-T00:00:00.Z","elapsed_s":0.,"clock":{"synchronised":true},"agent_version":"0.1.0",'
    b'"outcome":{"kind":"radio","reading":{"registration":"home","technology":"lte","operator":"Viettel","mcc":"452",'
    b'"mnc":"04","tac":,"cell_id":,"enodeb_id":,"pci":,"earfcn":,"band":3,"bandwidth_mhz":20.0,"rsrp_dbm":-9.0,'
    b'"rsrq_db":-1.0,"sinr_db":1.0,"rssi_dbm":-6.0}}},{"probe_id":"'
)

LATEST: Final = _V1
"""What writers use."""
KNOWN: Final = {zlib.adler32(words): words for words in (_V1,)}
"""Every dictionary that has ever travelled, by its checksum."""
