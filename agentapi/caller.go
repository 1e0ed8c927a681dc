package agentapi

import (
	"log/slog"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// reasonUnknown is the reason in the audit for the refusal of a request on a connection that is not
// known to be its caller's any more.
const reasonUnknown policy.Reason = "the connection has ended, or its caller is not known"

// certain returns the caller without the facts that the rules do not accept: strict rules do not
// accept a process that is known by its number only.
func (r *Rules) certain(caller peer.Caller) peer.Caller {
	if !r.Policy.Strict || !caller.Weak {
		return caller
	}
	_ = caller.Close()
	return caller.WithoutProcess()
}

// otherwiseNamed returns the refusal of a caller whose user or group rules name together with a
// unit or a program; nil for others.
func (r *Rules) otherwiseNamed(caller peer.Caller) *problem {
	switch reason := r.Policy.Unnamed(caller); reason {
	case policy.ReasonUnit, policy.ReasonWeak, policy.ReasonExecutable:
		return newProblem(wire.CodeCallerNotAllowed, "no rule names uid %d as it calls: %s", caller.UID, reason).
			withHint("call from the unit and with the program that the rule is for, while it runs; systemctl status PID says in which unit a process is")
	default:
		return nil
	}
}

// unnamed is the reason in the audit for a caller who lacks a permission.
func (r *Rules) unnamed(needed permission, caller peer.Caller) policy.Reason {
	if needed == forAdministrators {
		return ""
	}
	return r.Policy.Unnamed(caller)
}

// callerAttrs is what a record has of a caller besides its uid. Over TCP, group and process are not
// known.
func (r *record) callerAttrs() []slog.Attr {
	c, attrs := r.caller, make([]slog.Attr, 0, 8)
	if c.Via != peer.ViaTCP {
		attrs = append(attrs, slog.Uint64("gid", uint64(c.GID)), slog.Int64("pid", int64(c.PID)))
	}
	attrs = appendUnlessEmpty(attrs, "transport", c.Via)
	switch {
	case r.unit != "":
		attrs = append(attrs, slog.String("unit", r.unit))
	case c.CgroupID != 0 && r.rules.Policy.ByMachine():
		attrs = append(attrs, slog.Uint64("cgroup", c.CgroupID))
	}
	attrs = appendUnlessEmpty(attrs, "executable", r.executable)
	if c.Weak {
		attrs = append(attrs, slog.String("peer_identity", "weak"))
	}
	if err := c.ProcessError(); err != nil && r.rules.Policy.ByMachine() {
		attrs = append(attrs, slog.String("process_unknown", err.Error()))
	}
	if uid, known := c.ProcessUID(); known && uid != c.UID {
		attrs = append(attrs, slog.Uint64("process_uid", uint64(uid)))
	}
	return attrs
}

// CallerIdentity describes what can be known of callers on a machine.
func CallerIdentity(level peer.Level, strict bool) wire.CallerIdentity {
	described := wire.CallerIdentity{
		Required: "available", Process: string(level.Process), Reason: level.Why,
		Units: proof(level.Units), Loopback: proof(level.TCP),
	}
	if strict {
		described.Required = "strict"
	}
	return described
}

func proof(why error) wire.CallerProof {
	if why != nil {
		return wire.CallerProof{Reason: why.Error()}
	}
	return wire.CallerProof{Available: true}
}
