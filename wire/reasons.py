"""The closed lists: why a run has no figures, is no sample, was never begun; how healthy a link is."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a run has no figures. The list is closed: a new reason is a new release."""

    NO_LEASE = "no_lease"
    BUSY = "busy"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    NAME_NOT_RESOLVED = "name_not_resolved"
    NO_SUCH_NAME = "no_such_name"
    SERVER_FAILURE = "server_failure"
    MALFORMED = "malformed"
    TLS_FAILED = "tls_failed"
    HTTP_STATUS = "http_status"
    CUT_OFF = "cut_off"
    LINK_DOWN = "link_down"
    LINK_LOST = "link_lost"
    NO_ADDRESS = "no_address"
    WRONG_PATH = "wrong_path"
    NO_MODEM = "no_modem"
    MODEM_SILENT = "modem_silent"
    MODEM_ERROR = "modem_error"
    NO_REGISTRATION = "no_registration"
    SIM_ABSENT = "sim_absent"
    SIM_LOCKED = "sim_locked"
    QUOTA_REACHED = "quota_reached"
    BUDGET_SHORT = "budget_short"
    TOOL_MISSING = "tool_missing"
    TOOL_FAILED = "tool_failed"
    INTERRUPTED = "interrupted"
    AGENT_ERROR = "agent_error"


class Invalid(StrEnum):
    """Why a throughput result is kept and shown but is no sample."""

    NOT_CELLULAR_4G = "not_cellular_4g"
    RADIO_UNKNOWN = "radio_unknown"
    ROAMING = "roaming"
    BYTES_NOT_ACCOUNTED = "bytes_not_accounted"
    OTHER_INTERFACE_USED = "other_interface_used"
    GAP_IN_TRANSFER = "gap_in_transfer"
    CUT_SHORT = "cut_short"
    BYTE_CAP = "byte_cap"
    TOO_SHORT = "too_short"
    FELL_BACK = "fell_back"
    OTHER_TRAFFIC = "other_traffic"
    QUOTA_REACHED = "quota_reached"
    PLAN_THROTTLED = "plan_throttled"
    CPU_STARVED = "cpu_starved"
    DEVICE_THROTTLED = "device_throttled"
    CLOCK_NOT_GOOD = "clock_not_good"
    CLOCK_STEPPED = "clock_stepped"
    SERVER_LOADED = "server_loaded"
    LEASE_EXPIRED = "lease_expired"


class Unmade(StrEnum):
    """Why a run that the schedule or the plan wanted was never begun. The list is closed."""

    AGENT_OFF = "agent_off"  # no power, stopped, or not yet started
    CLOCK_SET = "clock_set"  # the agent ran, but its clock stood elsewhere
    TURN_MISSED = "turn_missed"  # another run, or the care for a link, took the probe's time until the turn was over
    PLAN_SPENT = "plan_spent"  # the quota had stopped the same job that day already
    NO_STORAGE = "no_storage"  # the disk took no note of a run, so none was made


class Condition(StrEnum):
    """What one look at a link says of its health. The recovery ladder goes by it; the list is closed."""

    HEALTHY = "healthy"
    NO_TRAFFIC = "no_traffic"  # registered and addressed, but nothing comes back
    NO_ADDRESS = "no_address"  # registered, but the interface is missing, down or without an address
    NOT_REGISTERED = "not_registered"
    SILENT = "silent"  # the modem is on the bus and does not answer AT
    ABSENT = "absent"  # the modem is not on the bus
    DENIED = "denied"  # the operator refuses the subscription
    SIM_ABSENT = "sim_absent"
    SIM_LOCKED = "sim_locked"
    PORT_HELD = "port_held"  # another program, or the rights of the port, keep the agent out
    NEEDS_HANDS = "needs_hands"  # recovery mode of the chip, or a choice that only the configuration can make
    REMOTE = "remote"  # other uplinks fail alike: the outage is not the modem's
