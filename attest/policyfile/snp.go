package policyfile

import (
	"maps"
	"slices"
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
		"min_tcb":     func(n *yaml.Node) { d.minTCB(n, s) },
		"min_abi":     func(n *yaml.Node) { s.MinABI = d.abi(n, "sev_snp.min_abi") },
		"alias_check": func(n *yaml.Node) { d.aliasCheck(n, s) },
		"forbid_smt":  func(n *yaml.Node) { s.ForbidSMT = d.flag(n, "sev_snp.forbid_smt") },
		"vlek_providers": func(n *yaml.Node) {
			s.VLEKProviders = d.texts(n, "sev_snp.vlek_providers", "write the provider's name as AMD's certificate has it")
		},
		"accept_platform_info": func(n *yaml.Node) { s.AllowPlatformInfo = d.bits(n, "sev_snp.accept_platform_info") },
	})
}

// snpLaunch replaces the built-in list as a whole: measurements beside a list of ID keys that
// nobody wrote would narrow nothing.
func (d *decoder) snpLaunch(n *yaml.Node, l *attest.Launch) {
	*l = attest.Launch{}
	faults := len(d.problems)
	d.mapping(n, "sev_snp.launch", members{
		"id_key_digests": func(n *yaml.Node) {
			const name = "sev_snp.launch.id_key_digests"
			d.list(n, name, func(entry *yaml.Node) {
				if entry.Kind == yaml.ScalarNode && entry.Value == "azure" {
					l.IDKeyDigests = append(l.IDKeyDigests, attest.AzureIDKeyDigests()...)
				} else if b := d.identity(entry, "an entry of "+name, launchDigestSize); b != nil {
					l.IDKeyDigests = append(l.IDKeyDigests, b)
				}
			})
		},
		"measurements": func(n *yaml.Node) {
			const name = "sev_snp.launch.measurements"
			d.list(n, name, func(entry *yaml.Node) {
				if b := d.identity(entry, "an entry of "+name, launchDigestSize); b != nil {
					l.Measurements = append(l.Measurements, b)
				}
			})
		},
		"min_guest_svn": func(n *yaml.Node) { l.MinGuestSVN = uint32(d.number(n, "sev_snp.launch.min_guest_svn", 0, 1<<32-1)) }, //nolint:gosec // number keeps to the range
	})
	if len(l.IDKeyDigests)+len(l.Measurements) == 0 && len(d.problems) == faults {
		d.refuse(n, "write id_key_digests or measurements; [azure] is the built-in list of ID keys", "sev_snp.launch lists nobody's firmware")
	}
}

// lines are the members of a TCB level on each of AMD's product lines, with the bit at which each
// begins.
func lines() map[string]map[string]int {
	zen3 := map[string]int{"boot_loader": 0, "tee": 8, "snp": 48, "microcode": 56}
	return map[string]map[string]int{
		"milan": zen3, "genoa": zen3, "turin": {"fmc": 0, "boot_loader": 8, "tee": 16, "snp": 24, "microcode": 56},
	}
}

// product is the name of a product line as AMD's certificates have it.
func product(line string) string { return strings.ToUpper(line[:1]) + line[1:] }

// minTCB reads the lowest level of each product line, or one for all.
func (d *decoder) minTCB(n *yaml.Node, s *attest.SNPPolicy) {
	const name = "sev_snp.min_tcb"
	if n.Kind != yaml.MappingNode {
		s.MinTCB = d.tcb(n, name)
		return
	}
	s.MinTCBOf = map[string]tee.TCB{}
	known := members{}
	for line, components := range lines() {
		known[line] = func(n *yaml.Node) { s.MinTCBOf[product(line)] = d.levels(n, name+"."+line, components) }
	}
	d.mapping(n, name, known)
	if len(s.MinTCBOf) == 0 {
		d.refuse(n, "write milan, genoa or turin below it, or leave it out", "%s has no product line", name)
	}
}

// levels reads a level by its components, or as tcb does.
func (d *decoder) levels(n *yaml.Node, name string, components map[string]int) tee.TCB {
	if n.Kind != yaml.MappingNode {
		return d.tcb(n, name)
	}
	var value uint64
	known := members{}
	for component, shift := range components {
		known[component] = func(n *yaml.Node) { value |= d.number(n, name+"."+component, 0, 255) << shift }
	}
	d.mapping(n, name, known)
	if len(n.Content) == 0 {
		do := "write " + strings.Join(slices.Sorted(maps.Keys(components)), ", ") + " below it with their lowest values, or leave the line out to refuse it"
		d.refuse(n, do, "%s has no component", name)
	}
	return tee.TCB(value)
}

// tcb reads a TCB_VERSION as the 16 digits that reports print.
func (d *decoder) tcb(n *yaml.Node, name string) tee.TCB {
	return tee.TCB(d.hex64(n, name, "write the 16 hexadecimal digits of a TCB version, or milan, genoa and turin below it with their components", 16))
}

// bits reads a set of bits, as 0x21.
func (d *decoder) bits(n *yaml.Node, name string) uint64 {
	return d.hex64(n, name, "write the bits as a hexadecimal number, such as 0x40", 0)
}

// hex64 reads a hexadecimal number, of so many digits unless that is 0.
func (d *decoder) hex64(n *yaml.Node, name, do string, size int) uint64 {
	text, ok := d.text(n, name, do)
	if !ok {
		return 0
	}
	digits, prefixed := strings.CutPrefix(text, "0x")
	value, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || (size > 0 && len(digits) != size) || (size == 0 && !prefixed) {
		d.refuse(n, do, "%s is %.40q", name, text)
		return 0
	}
	return value
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
