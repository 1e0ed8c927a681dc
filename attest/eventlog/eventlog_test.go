package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest/eventlog"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

func machine() bootlog.Machine {
	return bootlog.Machine{SecureBoot: true, CommandLine: "/vmlinuz root=/dev/sda1 ro"}
}

// read reads a log against the registers that it leaves.
func read(t testing.TB, l *bootlog.Log) *eventlog.Facts {
	t.Helper()
	f, err := eventlog.Read(l.Bytes(), l.PCRs())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPaddingIsCutAndCounted(t *testing.T) {
	t.Parallel()
	log := bootlog.Boot(machine()).Bytes()
	separated := &bootlog.Log{}
	separated.Measure(7, bootlog.Separator, make([]byte, 4)) // ends with zeros that are no padding
	for name, tt := range map[string]struct {
		log     []byte
		padding []byte
	}{
		"nothing":                      {log, nil},
		"a few zeros":                  {log, make([]byte, 3)},
		"a page of zeros":              {log, make([]byte, 4096)},
		"a megabyte of zeros":          {log, make([]byte, 1<<20)},
		"an erased flash":              {log, bytes.Repeat([]byte{0xFF}, 4096)},
		"both":                         {log, append(make([]byte, 40), 0xFF, 0xFF, 0)},
		"an event that ends in zeros":  {separated.Bytes(), nil},
		"one, and zeros after it":      {separated.Bytes(), make([]byte, 100)},
		"one, and an erased flash":     {separated.Bytes(), bytes.Repeat([]byte{0xFF}, 100)},
		"a header and nothing else":    {(&bootlog.Log{}).Bytes(), nil},
		"a header and zeros after it":  {(&bootlog.Log{}).Bytes(), make([]byte, 64)},
		"a header and an erased flash": {(&bootlog.Log{}).Bytes(), bytes.Repeat([]byte{0xFF}, 64)},
	} {
		kept, cut, err := eventlog.Trim(slices.Concat(tt.log, tt.padding))
		if err != nil || cut != len(tt.padding) || !bytes.Equal(kept, tt.log) {
			t.Errorf("%s: kept %d of %d bytes, cut %d, %v", name, len(kept), len(tt.log), cut, err)
		}
		if len(tt.padding) > eventlog.MaxSize {
			continue
		}
		l, err := eventlog.Parse(slices.Concat(tt.log, tt.padding))
		if err != nil || l.Padding != len(tt.padding) {
			t.Errorf("%s: parsed with padding %d, %v", name, l.Padding, err)
		}
	}
	for name, empty := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 64), "an erased flash": bytes.Repeat([]byte{0xFF}, 64)} {
		if kept, cut, err := eventlog.Trim(empty); kept != nil || cut != len(empty) || err != nil {
			t.Errorf("%s: kept %x, cut %d, %v", name, kept, cut, err)
		}
	}
	if _, _, err := eventlog.Trim([]byte("not a log")); err == nil {
		t.Error("what is no log is trimmed")
	}
}

// patched is an ordinary log with other bytes at an offset.
func patched(offset int, with ...byte) []byte {
	b := bootlog.Boot(machine()).Bytes()
	copy(b[offset:], with)
	return b
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	log := bootlog.Boot(machine()).Bytes()
	// The header event: 32 bytes, then the specification's: its banks begin at 60, four bytes each.
	const specAt, banksAt, firstEvent = 32, 60, 73
	many := &bootlog.Log{}
	for range 5000 {
		many.Measure(0, bootlog.Separator, nil)
	}
	late := bootlog.Boot(machine())
	late.MeasureAs(0, bootlog.NoAction, nil, []byte("StartupLocality\x00\x03"))
	odd := &bootlog.Log{}
	odd.MeasureAs(0, bootlog.NoAction, nil, []byte("StartupLocality\x00\x02"))
	for name, tt := range map[string]struct {
		log  []byte
		want string
	}{
		"nothing":                        {nil, "ends within"},
		"too many bytes":                 {make([]byte, eventlog.MaxSize+1), "at most"},
		"too many events":                {many.Bytes(), "more than"},
		"the format with SHA-1 alone":    {patched(specAt, 'X'), "Spec ID Event03"},
		"a header with a digest":         {patched(8, 1), "not zero"},
		"a header that is longer":        {patched(28, 0xFF, 0xFF), "ends within"},
		"version 1.2":                    {patched(specAt+20, 2, 1), "version 1.2"},
		"no banks":                       {patched(banksAt-4, 0), "0 hash algorithms"},
		"very many banks":                {patched(banksAt-4, 0xFF, 0xFF, 0xFF, 0xFF), "hash algorithms"},
		"more banks than are listed":     {patched(banksAt-4, 4), "ends within"},
		"a bank with longer digests":     {patched(banksAt+2, 21), "digests of 21 bytes"},
		"an unknown bank":                {patched(banksAt, 0x05), "unknown"},
		"a bank twice":                   {patched(banksAt+8, 0x0B, 0, 32), "comes twice"},
		"no SHA-256 bank":                {patched(banksAt+4, 0x12), "no SHA-256"},
		"a vendor's data that is absent": {patched(firstEvent-1, 1), "another length"},
		"PCR 24":                         {patched(firstEvent, 24), "PCR 24"},
		"no digest":                      {patched(firstEvent+8, 0), "0 digests"},
		"very many digests":              {patched(firstEvent+8, 0xFF, 0xFF, 0xFF, 0xFF), "digests, want 3"},
		"a digest twice":                 {patched(firstEvent+12+22, 0x04), "comes twice"},
		"a digest of an unknown bank":    {patched(firstEvent+12, 0x0D), "not announced"},
		"data of 4 GiB":                  {patched(firstEvent+12+22+34+50, 0xFF, 0xFF, 0xFF, 0xFF), "ends within"},
		"zeros between the events":       {slices.Concat(log, make([]byte, 64), log[firstEvent:]), "0 digests"},
		"something after the padding":    {slices.Concat(log, make([]byte, 64), []byte{1}), "0 digests"},
		"a start after the first event":  {late.Bytes(), "after a measurement"},
		"a start from locality 2":        {odd.Bytes(), "locality 02"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := eventlog.Parse(tt.log); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	for n := range len(log) {
		if _, err := eventlog.Parse(log[:n]); err == nil && !ends(log, n) {
			t.Errorf("cut off after %d of %d bytes: accepted", n, len(log))
		}
	}
}

// ends reports whether an event of the log ends at n, or padding would look the same.
func ends(log []byte, n int) bool {
	l, err := eventlog.Parse(log)
	if err != nil {
		return false
	}
	at := 73
	for _, e := range l.Events {
		if at <= n && len(bytes.Trim(log[at:n], "\x00\xff")) == 0 {
			return true
		}
		at += 12 + 22 + 34 + 50 + 4 + len(e.Data)
	}
	return false
}

func TestRegistersReplay(t *testing.T) {
	t.Parallel()
	l := bootlog.Boot(machine())
	values := l.PCRs()
	delete(values, 3)
	values[6] = make([]byte, 32)
	values[17] = bytes.Repeat([]byte{0xFF}, 32)
	values[18] = make([]byte, 32)
	values[23] = make([]byte, 32)
	f, err := eventlog.Read(l.Bytes(), values)
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 23}; !slices.Equal(f.Replayed, want) {
		t.Errorf("replayed %v, want %v", f.Replayed, want)
	}
	if want := []int{6, 18}; !slices.Equal(f.NotReplayed, want) {
		t.Errorf("not replayed %v, want %v", f.NotReplayed, want)
	}
}

func TestTheFirstValueOfPCR0IsTheLocality(t *testing.T) {
	t.Parallel()
	l := bootlog.Boot(machine())
	values := l.PCRs()
	start := &bootlog.Log{}
	start.MeasureAs(0, bootlog.NoAction, nil, []byte("StartupLocality\x00\x03"))
	f, err := eventlog.Read(start.Bytes(), map[int][]byte{0: append(make([]byte, 31), 3)})
	if err != nil || !slices.Equal(f.Replayed, []int{0}) {
		t.Errorf("%+v, %v", f, err)
	}
	start.Events = append(start.Events, l.Events...)
	if f, err := eventlog.Read(start.Bytes(), values); err != nil || !slices.Equal(f.NotReplayed, []int{0}) {
		t.Errorf("registers that began at zero: %+v, %v", f, err)
	}
}

// A kernel may have copied the log before firmware's last events.
func TestTheLastEventsOfFirmwareMayBeMissing(t *testing.T) {
	t.Parallel()
	invoked, ok, failed := "Exit Boot Services Invocation", "Exit Boot Services Returned with Success", "Exit Boot Services Returned with Failure"
	for _, tt := range []struct {
		missing []string
		want    bool
	}{
		{[]string{invoked, ok}, true}, {[]string{invoked, failed}, true}, {[]string{invoked, failed, ok}, true},
		{[]string{invoked}, false}, {[]string{ok}, false}, {[]string{invoked, ok, invoked}, false},
	} {
		l := bootlog.Boot(machine())
		log := l.Bytes()
		for _, text := range tt.missing {
			l.Measure(5, bootlog.Action, []byte(text))
		}
		f, err := eventlog.Read(log, l.PCRs())
		if err != nil || slices.Contains(f.Replayed, 5) != tt.want {
			t.Errorf("%q: %+v, %v", tt.missing, f, err)
		}
	}
}

func TestSecureBootIsStatedOnlyIfAllBeforeTheSeparatorIsUnderstood(t *testing.T) {
	t.Parallel()
	const global = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"
	first := func(e bootlog.Event) func(*bootlog.Log) {
		return func(l *bootlog.Log) { l.Events = slices.Insert(l.Events, 0, e) }
	}
	event := func(typ uint32, data []byte) bootlog.Event {
		return bootlog.Event{PCR: 7, Type: typ, Measured: data, Data: data}
	}
	without := func(name string) func(*bootlog.Log) {
		return func(l *bootlog.Log) {
			l.Events = slices.DeleteFunc(l.Events, func(e bootlog.Event) bool {
				return e.Type == bootlog.VariableDriverConfig && bytes.Contains(e.Data, []byte(utf16le(name)))
			})
		}
	}
	tests := []struct {
		name   string
		on     bool
		change func(*bootlog.Log)
		want   eventlog.SecureBoot
		reason string
	}{
		{"on", true, func(*bootlog.Log) {}, eventlog.SecureBootEnabled, ""},
		{"off", false, func(*bootlog.Log) {}, eventlog.SecureBootDisabled, ""},
		{"DMA protection off", true, first(event(bootlog.Action, []byte("DMA Protection Disabled"))), eventlog.SecureBootEnabled, ""},
		{"an authority of firmware's", true, first(event(bootlog.VariableAuthority, bootlog.Variable(global, "db", nil))), eventlog.SecureBootEnabled, ""},
		{"an event after the separator that nobody knows", true, func(l *bootlog.Log) {
			l.MeasureAs(7, 0x1234, []byte("one thing"), []byte("another"))
		}, eventlog.SecureBootEnabled, ""},
		{"a second SecureBoot after the separator", false, func(l *bootlog.Log) {
			l.Measure(7, bootlog.VariableDriverConfig, bootlog.Variable(global, "SecureBoot", []byte{1}))
		}, eventlog.SecureBootDisabled, ""},

		{"no event at all", true, func(l *bootlog.Log) { l.Events = nil }, eventlog.SecureBootNotStated, "no separator"},
		{"no variable", true, without("SecureBoot"), eventlog.SecureBootNotStated, "no variable SecureBoot"},
		{"another vendor's variable", true, func(l *bootlog.Log) {
			without("SecureBoot")(l)
			first(event(bootlog.VariableDriverConfig, bootlog.Variable(strings.Repeat("v", 16), "SecureBoot", []byte{1})))(l)
		}, eventlog.SecureBootNotStated, "no variable SecureBoot"},
		{"a value of 2", true, func(l *bootlog.Log) {
			without("SecureBoot")(l)
			first(event(bootlog.VariableDriverConfig, bootlog.Variable(global, "SecureBoot", []byte{2})))(l)
		}, eventlog.SecureBootNotStated, "value 0 or 1"},
		{"a variable twice", true, first(event(bootlog.VariableDriverConfig, bootlog.Variable(global, "SecureBoot", []byte{1}))), eventlog.SecureBootNotStated, "measured twice"},
		{"a variable that cannot be read", true, first(event(bootlog.VariableDriverConfig, make([]byte, 20))), eventlog.SecureBootNotStated, "cannot be read"},
		{"a variable with bytes after it", true, first(event(bootlog.VariableDriverConfig, append(bootlog.Variable(global, "x", nil), 0))), eventlog.SecureBootNotStated, "cannot be read"},
		{"an authority that cannot be read", true, first(event(bootlog.VariableAuthority, make([]byte, 20))), eventlog.SecureBootNotStated, "cannot be read"},
		{"a text that was not measured", true, first(bootlog.Event{PCR: 7, Type: bootlog.Action, Measured: []byte("a"), Data: []byte("DMA Protection Disabled")}), eventlog.SecureBootNotStated, "not covered"},
		{"a debugger", true, first(event(bootlog.Action, []byte("UEFI Debug Mode"))), eventlog.SecureBootNotStated, "UEFI Debug Mode"},
		{"an event that does not belong there", true, first(event(bootlog.IPL, []byte("x"))), eventlog.SecureBootNotStated, "does not belong"},
		{"an error before the boot", true, first(event(bootlog.Separator, []byte{1, 0, 0, 0})), eventlog.SecureBootNotStated, "firmware failed"},
		{"no platform key", true, without("PK"), eventlog.SecureBootNotStated, "PK is empty"},
		{"no exchange key", true, without("KEK"), eventlog.SecureBootNotStated, "KEK is empty"},
		{"nobody who authorised", true, func(l *bootlog.Log) {
			l.Events = slices.DeleteFunc(l.Events, func(e bootlog.Event) bool { return e.Type == bootlog.VariableAuthority })
		}, eventlog.SecureBootNotStated, "nothing was authorised"},
		{"an authority that was not measured", true, func(l *bootlog.Log) {
			for i, e := range l.Events {
				if e.Type == bootlog.VariableAuthority {
					l.Events[i].Measured = []byte("another")
				}
			}
		}, eventlog.SecureBootNotStated, "nothing was authorised"},
	}
	for _, tt := range tests {
		m := machine()
		m.SecureBoot = tt.on
		l := bootlog.Boot(m)
		tt.change(l)
		if f := read(t, l); f.SecureBoot != tt.want || !strings.Contains(f.SecureBootReason, tt.reason) || (f.SecureBootReason == "") != (tt.reason == "") {
			t.Errorf("%s: %q (%s), want %q (%s)", tt.name, f.SecureBoot, f.SecureBootReason, tt.want, tt.reason)
		}
	}
}

func utf16le(s string) string {
	var b []byte
	for _, c := range []byte(s) {
		b = binary.LittleEndian.AppendUint16(b, uint16(c))
	}
	return string(b)
}

// An old shim shows one byte more than it measured.
func TestAuthoritiesOfAnOldShimAreShown(t *testing.T) {
	t.Parallel()
	l := bootlog.Boot(machine())
	v := bootlog.Variable(strings.Repeat("v", 16), "Shim", []byte("certificate\x00"))
	l.MeasureAs(7, bootlog.VariableAuthority, v[:len(v)-1], v)
	if f := read(t, l); len(f.Authorities) != 2 || f.Authorities[1].Variable != "Shim" {
		t.Errorf("authorities: %+v", f.Authorities)
	}
}

func TestCommandLinesAreTextsThatTheDigestCovers(t *testing.T) {
	t.Parallel()
	stub := utf16le("root=/dev/sda1 quiet\x00")
	type texts = []eventlog.CommandLine
	none := []string{}
	for name, tt := range map[string]struct {
		measure func(*bootlog.Log)
		want    texts
		reasons []string
	}{
		"nothing": {func(*bootlog.Log) {}, nil, none},
		"GRUB's": {func(l *bootlog.Log) {
			l.MeasureAs(8, bootlog.IPL, []byte("(hd0)/vmlinuz ro"), []byte("kernel_cmdline: (hd0)/vmlinuz ro\x00"))
			l.MeasureAs(8, bootlog.IPL, []byte("set a=/x"), []byte("grub_cmd: set a=/x\x00"))
		}, texts{{8, "(hd0)/vmlinuz ro"}}, none},
		"an older GRUB's": {func(l *bootlog.Log) {
			l.MeasureAs(8, bootlog.IPL, []byte("/vmlinuz ro"), []byte("grub_kernel_cmdline /vmlinuz ro"))
			l.MeasureAs(8, bootlog.IPL, []byte("menuentry 'a\n\tb'\x00"), []byte("grub_cmd menuentry 'a\n\tb'\x00"))
		}, texts{{8, "/vmlinuz ro"}}, none},
		"Debian's menu, as grub-mkconfig writes it": {func(l *bootlog.Log) {
			for _, command := range []string{
				"[ -s /boot/grub/grubenv ]", "set default=0", "[ xy = xy ]", "menuentry_id_option=--id", "export menuentry_id_option", "insmod part_gpt",
				"search --no-floppy --fs-uuid --set=root 0a1b", "loadfont /usr/share/grub/unicode.pf2", "set gfxmode=auto", "load_video", "terminal_output gfxterm",
				"set timeout=5", "set linux_gfx_mode=", "export linux_gfx_mode",
				"menuentry Debian GNU/Linux --class debian --class gnu-linux --class gnu --class os --id gnulinux-simple-0a1b {\n\tload_video\n\tlinux\t/boot/vmlinuz-6.1.0-13-cloud-amd64 root=UUID=0a1b ro\n}",
				"setparams Debian GNU/Linux", "[ xefi = xxen ]", "insmod gzio", "echo Loading Linux 6.1.0-13-cloud-amd64 ...",
				"linux /boot/vmlinuz-6.1.0-13-cloud-amd64 root=UUID=0a1b ro console=ttyS0", "echo Loading initial ramdisk ...", "initrd /boot/initrd.img-6.1.0-13-cloud-amd64",
			} {
				l.MeasureAs(8, bootlog.IPL, []byte(command), []byte("grub_cmd: "+command+"\x00"))
			}
			const line = "/boot/vmlinuz-6.1.0-13-cloud-amd64 root=UUID=0a1b ro console=ttyS0"
			l.MeasureAs(8, bootlog.IPL, []byte(line), []byte("kernel_cmdline: "+line+"\x00"))
		}, texts{{8, "/boot/vmlinuz-6.1.0-13-cloud-amd64 root=UUID=0a1b ro console=ttyS0"}}, none},
		"systemd-stub's": {func(l *bootlog.Log) { l.Measure(12, bootlog.IPL, []byte(stub)) }, texts{{12, "root=/dev/sda1 quiet"}}, none},
		"an older systemd-stub's": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte(stub))
			l.Measure(12, bootlog.IPL, []byte(stub))
		}, texts{{8, "root=/dev/sda1 quiet"}, {12, "root=/dev/sda1 quiet"}}, none},
		"one that calls itself a command": {func(l *bootlog.Log) {
			l.MeasureAs(8, bootlog.IPL, []byte("/vmlinuz evil"), []byte("grub_cmd: /vmlinuz evil\x00"))
		}, texts{{8, "/vmlinuz evil"}}, none},
		"one whose label is not there": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz evil"))
		}, texts{{8, "/vmlinuz evil"}}, none},
		"credentials of systemd-stub": {func(l *bootlog.Log) {
			l.Measure(12, bootlog.IPL, []byte(stub))
			l.MeasureAs(12, bootlog.IPL, []byte("an archive"), []byte(utf16le("Credentials initrd\x00")))
		}, nil, []string{"PCR 12"}},
		"unreadable texts": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz \x1b[31m"))
			l.Measure(12, bootlog.IPL, []byte("a\x00b"))
		}, nil, []string{"PCR 8", "PCR 12"}},
		"text that is not UTF-16": {func(l *bootlog.Log) { l.Measure(12, bootlog.IPL, []byte("\x00\xd8\x00\x00")) }, nil, []string{"PCR 12"}},
		"text that is not UTF-8":  {func(l *bootlog.Log) { l.Measure(8, bootlog.IPL, []byte("/\xff")) }, nil, []string{"PCR 8"}},
		"a kernel in an archive, whose path needs no slash": {func(l *bootlog.Log) {
			l.MeasureAs(8, bootlog.IPL, []byte("linux xvmlinuz init=/bin/evil"), []byte("grub_cmd: linux xvmlinuz init=/bin/evil\x00"))
			l.MeasureAs(8, bootlog.IPL, []byte("xvmlinuz init=/bin/evil"), []byte("kernel_cmdline: xvmlinuz init=/bin/evil\x00"))
			l.MeasureAs(8, bootlog.IPL, []byte("/vmlinuz ro"), []byte("kernel_cmdline: /vmlinuz ro\x00"))
		}, nil, []string{"PCR 8", `"xvmlinuz"`}},
		"another loader there": {func(l *bootlog.Log) { l.Measure(8, bootlog.IPL, []byte("chainloader x.efi")) }, nil, []string{`"x.efi"`}},
		"a kernel whose name looks like an option": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("linux -xvmlinuz /x init=/bin/evil"))
			l.Measure(8, bootlog.IPL, []byte("-xvmlinuz /x init=/bin/evil"))
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz ro"))
		}, nil, []string{`"-xvmlinuz"`}},
		"a kernel by the command of an older configuration": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("legacy_kernel --type=linux xvmlinuz init=/bin/evil"))
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz ro"))
		}, nil, []string{`"--type=linux"`}},
		"an initial file system in an archive": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("initrdefi xinitrd"))
		}, nil, []string{`"xinitrd"`}},
		"a command that loads nothing": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("linux"))
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz ro"))
		}, nil, []string{`""`}},
		"a kernel with a space in its path, which GRUB quotes": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("linux /vm linuz init=/bin/evil"))
			l.Measure(8, bootlog.IPL, []byte("\"/vm linuz\" init=/bin/evil"))
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz ro"))
		}, texts{{8, "\"/vm linuz\" init=/bin/evil"}, {8, "/vmlinuz ro"}}, none},
		"commands that load by whole paths": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.IPL, []byte("linux /vmlinuz ro"))
			l.Measure(8, bootlog.IPL, []byte("chainloader (hd0,gpt1)/efi/x.efi"))
			l.Measure(8, bootlog.IPL, []byte("/vmlinuz ro"))
		}, texts{{8, "/vmlinuz ro"}}, none},
		"separators": {func(l *bootlog.Log) {
			l.Measure(8, bootlog.Separator, make([]byte, 4))
			l.Measure(12, bootlog.Separator, []byte{0xFF, 0xFF, 0xFF, 0xFF})
		}, nil, none},
	} {
		l := &bootlog.Log{}
		tt.measure(l)
		f := read(t, l)
		if diff := cmp.Diff(tt.want, f.CommandLines); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, reason := range tt.reasons {
			if !strings.Contains(f.CommandLinesReason, reason) {
				t.Errorf("%s: reason %q has no %q", name, f.CommandLinesReason, reason)
			}
		}
		if len(tt.reasons) == 0 && f.CommandLinesReason != "" {
			t.Errorf("%s: %s", name, f.CommandLinesReason)
		}
	}
}

func TestFactsOfRegistersThatAreNotProvenAreNotRead(t *testing.T) {
	t.Parallel()
	l := bootlog.Boot(machine())
	wrong := l.PCRs()
	for i := range wrong {
		wrong[i] = bytes.Repeat([]byte{1}, 32)
	}
	for name, values := range map[string]map[int][]byte{"not quoted": nil, "does not replay": wrong} {
		f, err := eventlog.Read(l.Bytes(), values)
		if err != nil {
			t.Fatal(err)
		}
		if f.SecureBoot != eventlog.SecureBootNotStated || f.SecureBootReason == "" || f.DBX != nil || f.PK != nil || f.Authorities != nil {
			t.Errorf("%s: secure boot %+v", name, f)
		}
		if f.BootLoaders != nil || f.BootLoadersReason == "" || f.CommandLines != nil || f.CommandLinesReason == "" {
			t.Errorf("%s: loaders or command lines %+v", name, f)
		}
	}
}
