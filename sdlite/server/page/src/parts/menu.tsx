// A button with a sheet of choices; Escape, a click elsewhere or a choice closes it.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon, type IconName } from "./icon";

interface MenuProps {
  icon: IconName;
  label: string;
  children: ComponentChildren;
}

export function Menu({ icon, label, children }: MenuProps) {
  const [open, turn] = useState(false);
  const place = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (!open) return undefined;
    const away = (event: Event) => {
      if (!place.current?.contains(event.target as Node)) turn(false);
    };
    addEventListener("pointerdown", away);
    addEventListener("focusin", away);
    return () => {
      removeEventListener("pointerdown", away);
      removeEventListener("focusin", away);
    };
  }, [open]);
  return (
    <div
      class="menu"
      ref={place}
      onKeyDown={(event) => {
        if (!open || event.key !== "Escape") return;
        event.stopPropagation(); // It would cancel what is drawn.
        turn(false);
        button.current?.focus();
      }}
    >
      <button
        type="button"
        class="action"
        ref={button}
        aria-expanded={open}
        onClick={() => turn(!open)}
      >
        <Icon name={icon} />
        <span>{label}</span>
      </button>
      {open && (
        <div class="sheet" onClick={() => turn(false)}>
          {children}
        </div>
      )}
    </div>
  );
}
