package eventlog

import (
	"bytes"
	"crypto/sha256"
	"fmt"
)

// SecureBoot is the state of UEFI Secure Boot as the log shows it.
type SecureBoot string

// The three states. Not stated is the answer whenever the log could have been arranged to say
// something else.
const (
	SecureBootEnabled   SecureBoot = "enabled"
	SecureBootDisabled  SecureBoot = "disabled"
	SecureBootNotStated SecureBoot = "not stated"
)

// Authority is what authorised an image to run: an entry of db, or what shim measured.
type Authority struct {
	Variable string   `json:"variable"`
	Subject  string   `json:"subject,omitempty"` // of the certificate; empty if it is none, or unreadable
	SHA256   HexBytes `json:"sha256"`            // of the entry
}

// secureBootPCR is the register of Secure Boot's state and its use.
const secureBootPCR = 7

// bootState has the facts read from PCR 7.
//
// Everything before the separator was measured by firmware. It is read only if all of it can be:
// the type of an event is covered by nothing, so that the measurement of SecureBoot = 0 could else
// be shown as an event of a type that nobody looks at, and a second one, of a value that a program
// in the guest has extended the register with after the boot, in its place. After the separator,
// only authorities are read.
type bootState struct {
	vars        map[string]variable // by vendor and name
	separated   bool
	authorities []Authority
}

func readBootState(events []Event) (*bootState, error) {
	s := &bootState{vars: map[string]variable{}}
	for _, e := range events {
		if s.separated {
			s.later(e)
			continue
		}
		if err := s.before(e); err != nil {
			return nil, err
		}
	}
	if !s.separated {
		return nil, fmt.Errorf("PCR %d has no separator", secureBootPCR)
	}
	return s, nil
}

// before reads an event that must be understood.
func (s *bootState) before(e Event) error {
	if !e.covered() {
		return fmt.Errorf("an event of type %#x in PCR %d is not covered by its digest", uint32(e.Type), secureBootPCR)
	}
	switch e.Type {
	case separator:
		if !bytes.Equal(e.Data, make([]byte, 4)) {
			return fmt.Errorf("the separator in PCR %d says that firmware failed", secureBootPCR)
		}
		s.separated = true
		return nil
	case variableConfig:
		return s.variable(e)
	case variableAuthority:
		v, ok := parseVariable(e.Data)
		if !ok {
			return fmt.Errorf("an authority in PCR %d cannot be read", secureBootPCR)
		}
		s.authorities = append(s.authorities, v.authority())
		return nil
	case action:
		if string(e.Data) == "DMA Protection Disabled" {
			return nil
		}
		return fmt.Errorf("PCR %d has the action %.40q", secureBootPCR, e.Data)
	default:
		return fmt.Errorf("an event of type %#x does not belong in PCR %d", uint32(e.Type), secureBootPCR)
	}
}

func (s *bootState) variable(e Event) error {
	v, ok := parseVariable(e.Data)
	if !ok {
		return fmt.Errorf("a variable in PCR %d cannot be read", secureBootPCR)
	}
	key := v.vendor + v.name
	if _, twice := s.vars[key]; twice {
		return fmt.Errorf("variable %.40q was measured twice", v.name)
	}
	s.vars[key] = v
	return nil
}

// later takes an authority. Old versions of shim show one byte more than they measured.
func (s *bootState) later(e Event) {
	if e.Type != variableAuthority || len(e.Data) == 0 {
		return
	}
	shown := e.Data
	v, ok := parseVariable(shown)
	if !e.covered() && !covers(e.Digest, shown[:len(shown)-1]) {
		return
	}
	if ok {
		s.authorities = append(s.authorities, v.authority())
	}
}

func (s *bootState) content(vendor, name string) []byte { return s.vars[vendor+name].content }

// hash is the SHA-256 of a variable's content, nil if it was not measured.
func (s *bootState) hash(vendor, name string) []byte {
	v, measured := s.vars[vendor+name]
	if !measured {
		return nil
	}
	sum := sha256.Sum256(v.content)
	return sum[:]
}

// state concludes. Enforcement without keys, or without an image that one of them authorised, would
// contradict itself.
func (s *bootState) state() (SecureBoot, error) {
	on := s.content(globalVariable, "SecureBoot")
	switch {
	case len(on) == 1 && on[0] == 0:
		return SecureBootDisabled, nil
	case len(on) != 1 || on[0] != 1:
		return SecureBootNotStated, fmt.Errorf("PCR %d has no variable SecureBoot of value 0 or 1", secureBootPCR)
	}
	for _, needed := range []struct{ vendor, name string }{
		{globalVariable, "PK"}, {globalVariable, "KEK"}, {securityDatabase, "db"},
	} {
		if len(s.content(needed.vendor, needed.name)) == 0 {
			return SecureBootNotStated, fmt.Errorf("SecureBoot is 1, but %s is empty", needed.name)
		}
	}
	if len(s.authorities) == 0 {
		return SecureBootNotStated, fmt.Errorf("SecureBoot is 1, but nothing was authorised by a key")
	}
	return SecureBootEnabled, nil
}
