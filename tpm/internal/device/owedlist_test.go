package device

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func TestTheListOfOwedFlushesIsBounded(t *testing.T) {
	t.Parallel()
	var o owed
	for i := range tpm2.TPMHandle(100) {
		dropped := o.add(owedFlush{handle: 0x80000000 + i})
		if full := int(i) >= maxOwed; full != (dropped != 0) {
			t.Errorf("handle %d: dropped %x", i, dropped)
		}
	}
	if len(o.list) != maxOwed || o.list[maxOwed-1].handle != 0x80000000+99 {
		t.Errorf("%d are listed, the last is %x", len(o.list), o.list[len(o.list)-1].handle)
	}
}

// A handle that the TPM gives out was free: a flush that was owed there is not owed any more.
func TestAHandleThatIsGivenOutIsNotOwed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		owed, given tpm2.TPMHandle
		left        int
	}{
		{0x80000001, 0x80000001, 0},
		{0x80000001, 0x80000000, 1},
		{0x02000001, 0x03000001, 0}, // HMAC and policy sessions are numbered together
		{0x03000001, 0x02000001, 0},
		{0x02000001, 0x02000000, 1},
		{0x02000001, 0x80000001, 1},
	} {
		var o owed
		o.add(owedFlush{handle: tt.owed})
		o.add(owedFlush{handle: tt.owed}) // it is owed once
		o.remove(tt.given)
		if len(o.list) != tt.left {
			t.Errorf("owed is %x, given out was %x: %d are left", tt.owed, tt.given, len(o.list))
		}
	}
}

// That the TPM was reset is not authenticated: one such answer forgets nothing, and nothing
// is flushed meanwhile.
func TestFlushesOwedFromBeforeAResetAreForgottenAfterAWhile(t *testing.T) {
	t.Parallel()
	old, now := boot{known: true, resets: 1}, boot{known: true, resets: 2}
	before, after := boots{old}, boots{now, old}
	var o owed
	o.add(owedFlush{handle: 0x80000000, boots: before})
	for range maxMisses - 1 {
		if list := o.skipOthers(after); len(list) != 0 {
			t.Fatalf("%+v is to be flushed after a reset", list)
		}
	}
	if list := o.skipOthers(boots{old, now}); len(list) != 1 {
		t.Error("it was forgotten, and the TPM was not reset")
	}
	for range maxMisses {
		o.skipOthers(after)
	}
	if !o.empty() {
		t.Error("it is never forgotten")
	}
	o.add(owedFlush{handle: 0x80000000}) // made where the TPM did not tell its boot
	if list := o.skipOthers(after); len(list) != 0 {
		t.Error("a handle of an unknown boot is to be flushed")
	}
	o.add(owedFlush{handle: 0x80000000, boots: after}) // made while somebody said that there was a reset
	if list := o.skipOthers(boots{old, now}); len(list) != 1 {
		t.Error("a handle that was made meanwhile is not flushed when that turns out to be false")
	}
}
