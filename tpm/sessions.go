package tpm

import (
	"errors"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/rc"
)

const (
	// defaultSessionUses bounds how long one session key is used. A new one costs an asymmetric
	// operation of the TPM, which is then spread over as many commands.
	defaultSessionUses = 4096

	// defaultSessionIdle is after how long a session that nobody uses is flushed. A session that a
	// resource manager has put aside holds back the TPM's context counter: once the other users of
	// the TPM have put sessions aside 65,000 times, or 250 times on some TPMs, they all get
	// TPM_RC_CONTEXT_GAP until ours is gone (TPM 2.0 Part 1, 30.5).
	defaultSessionIdle = time.Minute
)

// sessions are the sessions that are kept: one for all commands with an authorization value, and
// one for keys with a policy. That is enough, because turns are exclusive and a session that is not
// bound serves any entity; more would take slots, of which a TPM has three, from other programs.
// They belong to the turn.
type sessions struct {
	plain   bool // passwords in place of HMACs
	maxUses int

	hmac, policy *session // nil: none; one that is not resident any more is gone
}

// slot returns where a kind of session is kept.
func (s *sessions) slot(kind tpm2.TPMSE) **session {
	if kind == tpm2.TPMSEPolicy {
		return &s.policy
	}
	return &s.hmac
}

// session returns the kept session of a kind, or makes one.
func (t *turn) session(kind tpm2.TPMSE) (*session, error) {
	table := &t.tpm.sessions
	if err := t.Connect(); err != nil {
		return nil, err
	}
	kept := table.slot(kind)
	if *kept != nil {
		if _, found := t.Use(*kept); !found {
			*kept = nil
		}
	}
	if *kept != nil && ((*kept).pending || (*kept).uses >= table.maxUses) {
		t.endSession(*kept)
	}
	if *kept == nil {
		fresh, err := startSession(t, kind)
		if err != nil {
			return nil, err
		}
		*kept = fresh
	}
	(*kept).uses++
	return *kept, nil
}

// endSession flushes a session.
func (t *turn) endSession(gone *session) {
	for _, kept := range []**session{&t.tpm.sessions.hmac, &t.tpm.sessions.policy} {
		if *kept == gone {
			*kept = nil
		}
	}
	t.Release(gone)
}

// sessionAttempts bounds how often a command is tried, each time with another session.
const sessionAttempts = 3

// errSessionGone says that the TPM does not know a session, in the words of a command that has the
// session as its handle.
var errSessionGone = errors.New("the session is gone")

// withSession runs f, which sends one command with a kept session. If it fails for the session's
// sake, f is run again with a new one. A policy session does not outlive a failure: what of the
// policy was executed would stay.
func (t *turn) withSession(kind tpm2.TPMSE, f func(*session) error) error {
	for attempt := 1; ; attempt++ {
		s, err := t.session(kind)
		if err != nil {
			return err
		}
		fresh := s.uses == 1
		s.pending = true
		err = f(s)
		if err == nil {
			t.Works(s)
			return nil
		}
		var code tpm2.TPMRC
		refused := errors.As(err, &code)
		if refused && !sessionFault(code) && kind == tpm2.TPMSEHMAC {
			s.pending = false // a command that fails does not roll the nonces (TPM 2.0 Part 1, 19.6.3)
			return err
		}
		t.endSession(s)
		if fresh && t.mayBeStale(s.root, err) && attempt < sessionAttempts {
			continue
		}
		if attempt == sessionAttempts || !errors.Is(err, errSessionGone) && !(refused && newSessionHelps(code, fresh)) {
			return err
		}
		t.tpm.log.Debug("TPM session is not good any more, starting another", "cause", err)
	}
}

// newSessionHelps reports whether a command that failed with code may succeed with a new session.
func newSessionHelps(code tpm2.TPMRC, fresh bool) bool {
	switch {
	case rc.Is(code, tpm2.TPMRCAuthFail): // it may have been counted
		return false
	case rc.Is(code, tpm2.TPMRCBadAuth): // of a fresh session, the nonces are right
		return !fresh
	case rc.Is(code, tpm2.TPMRCPCRChanged): // of any PCR, since the policy was executed
		return true
	}
	return sessionFault(code)
}

// sessionFault reports whether a code says that a session is gone, or may come from one whose
// nonces have come apart, or from another program's session that has its number now.
func sessionFault(code tpm2.TPMRC) bool {
	const sessionRelated = 0x800 // of a format-one code: N is 8 and more (TPM 2.0 Part 2, 6.6.2)
	if rc.Is(code, tpm2.TPMRCHandle, tpm2.TPMRCValue, tpm2.TPMRCSymmetric, tpm2.TPMRCAuthType) {
		return code&0x40 == 0 && code&sessionRelated != 0
	}
	return rc.Is(code, tpm2.TPMRCReferenceS0, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) || rc.SessionsFull(code)
}

// protected runs a command that needs an authorization value: with an HMAC session, or with the
// value itself if sessions are plain. Encrypt is the choice of attrDecrypt and attrEncrypt.
func (t *turn) protected(value []byte, encrypt byte, f func(tpm2.Session) error) error {
	if t.tpm.sessions.plain {
		return f(tpm2.PasswordAuth(value))
	}
	return t.withSession(tpm2.TPMSEHMAC, func(s *session) error { return f(s.authorize(value, encrypt)) })
}
