package policyfile

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// launchDigestSize is the size of an SNP measurement and of an ID key's digest (SHA-384), in bytes.
const launchDigestSize = 48

// aliasCheck is the bit of PLATFORM_INFO that says that memory aliases were looked for (AMD 56860).
const aliasCheck = 1 << 5

func (d *decoder) snp(n *yaml.Node, s *attest.SNPPolicy) {
	d.mapping(n, "sev_snp", members{
		"launch":      func(n *yaml.Node) { d.snpLaunch(n, &s.Launch) },
		"min_tcb":     func(n *yaml.Node) { s.MinTCB = d.tcb(n, "sev_snp.min_tcb") },
		"min_abi":     func(n *yaml.Node) { s.MinABI = d.abi(n, "sev_snp.min_abi") },
		"alias_check": func(n *yaml.Node) { d.aliasCheck(n, s) },
		"forbid_smt":  func(n *yaml.Node) { s.ForbidSMT = d.flag(n, "sev_snp.forbid_smt") },
	})
}

// snpLaunch replaces the built-in list as a whole: measurements beside a list of ID keys that
// nobody wrote would narrow nothing.
func (d *decoder) snpLaunch(n *yaml.Node, l *attest.Launch) {
	*l = attest.Launch{}
	d.mapping(n, "sev_snp.launch", members{
		"id_key_digests": func(n *yaml.Node) {
			const name = "sev_snp.launch.id_key_digests"
			d.list(n, name, func(entry *yaml.Node) {
				if entry.Kind == yaml.ScalarNode && entry.Value == "azure" {
					l.IDKeyDigests = append(l.IDKeyDigests, attest.AzureIDKeyDigests()...)
				} else if b := d.digest(entry, "an entry of "+name, launchDigestSize); b != nil {
					l.IDKeyDigests = append(l.IDKeyDigests, b)
				}
			})
		},
		"measurements":  func(n *yaml.Node) { l.Measurements = d.digests(n, "sev_snp.launch.measurements", launchDigestSize) },
		"min_guest_svn": func(n *yaml.Node) { l.MinGuestSVN = uint32(d.number(n, "sev_snp.launch.min_guest_svn", 0, 1<<32-1)) }, //nolint:gosec // number keeps to the range
	})
	if len(l.IDKeyDigests)+len(l.Measurements) == 0 {
		d.refuse(n, "write id_key_digests or measurements; [azure] is the built-in list of ID keys", "sev_snp.launch lists nobody's firmware")
	}
}

// tcb reads a TCB_VERSION as the 16 digits that reports print, or by its components on Milan and
// Genoa.
func (d *decoder) tcb(n *yaml.Node, name string) tee.TCB {
	if n.Kind == yaml.MappingNode {
		var value uint64
		component := func(member string, shift int) func(*yaml.Node) {
			return func(n *yaml.Node) { value |= d.number(n, name+"."+member, 0, 255) << shift }
		}
		d.mapping(n, name, members{
			"boot_loader": component("boot_loader", 0), "tee": component("tee", 8),
			"snp": component("snp", 48), "microcode": component("microcode", 56),
		})
		return tee.TCB(value)
	}
	const do = "write the 16 hexadecimal digits of a TCB version, or boot_loader, tee, snp and microcode below it"
	text, ok := d.text(n, name, do)
	if !ok {
		return 0
	}
	digits := strings.TrimPrefix(text, "0x")
	value, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || len(digits) != 16 {
		d.refuse(n, do, "%s is %.40q", name, text)
		return 0
	}
	return tee.TCB(value)
}

func (d *decoder) abi(n *yaml.Node, name string) uint16 {
	const do = "write MAJOR.MINOR in quotes, such as \"1.51\""
	text, ok := d.text(n, name, do)
	if !ok {
		return 0
	}
	major, minor, _ := strings.Cut(text, ".")
	high, errHigh := strconv.ParseUint(major, 10, 8)
	low, errLow := strconv.ParseUint(minor, 10, 8)
	if errHigh != nil || errLow != nil {
		d.refuse(n, do, "%s is %.40q", name, text)
		return 0
	}
	return uint16(high<<8 | low) //nolint:gosec // both are of 8 bits
}

func (d *decoder) aliasCheck(n *yaml.Node, s *attest.SNPPolicy) {
	if d.flag(n, "sev_snp.alias_check") {
		s.PlatformInfo |= aliasCheck
	}
}
