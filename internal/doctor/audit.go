package doctor

import (
	"cmp"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/auditsink"
)

// checkAudit says where audit records go, and whether they do: as the running agent says, or as it
// would find it at its start.
func (d *doctor) checkAudit() {
	const check = "audit"
	if d.running != nil {
		d.checkRunningAudit(check, d.running.Audit)
		return
	}
	if d.unread() {
		d.notChecked(check)
		return
	}
	cfg := d.cfg.Audit
	err := auditsink.Check(auditsink.Config{To: cmp.Or(cfg.To, config.AuditToStdout), File: cfg.Path()})
	if err != nil {
		d.addError(check, err, "do what it says, or let audit.to name another place; the agent does not start without")
		return
	}
	d.add(check, VerdictOK, "", "records go to %s", placeOf(cfg.To, cfg.Path()))
}

func (d *doctor) checkRunningAudit(check string, a wire.AuditStatus) {
	place := placeOf(onALine(a.To), onALine(a.File))
	switch {
	case a.LastError != "" && a.Required:
		d.add(check, VerdictFail, "see "+place+"; no token is given until records can be written again", "records go to %s and cannot be written: %s", place, onALine(a.LastError))
	case a.LastError != "":
		d.add(check, VerdictWarn, "see "+place+"; tokens are given without records meanwhile", "records go to %s and cannot be written: %s", place, onALine(a.LastError))
	case a.Lost > 0:
		d.add(check, VerdictWarn, "see the agent's log for when and why", "records go to %s; %s, and %d were lost since the agent's start", place, lastWritten(a), a.Lost)
	default:
		d.add(check, VerdictOK, "", "records go to %s; %s", place, lastWritten(a))
	}
	if d.unread() || a.To == "" {
		return
	}
	if wanted := placeOf(d.cfg.Audit.To, d.cfg.Audit.Path()); wanted != place {
		d.add(check+": place", VerdictWarn, "restart the agent; until then it goes on as it was started", "records go to %s, and the configuration says %s", place, wanted)
	}
}

func lastWritten(a wire.AuditStatus) string {
	if a.LastWritten == nil {
		return "none was written yet"
	}
	return "the last was written at " + a.LastWritten.UTC().Format(time.RFC3339)
}

func placeOf(to, file string) string {
	switch {
	case file != "":
		return file
	case to == config.AuditToJournald:
		return "the journal (journalctl -t keyagent-audit)"
	}
	return "the agent's standard output"
}
