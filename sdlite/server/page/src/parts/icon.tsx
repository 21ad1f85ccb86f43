// Line drawings on a grid of 20.
const PATHS = {
  save: "M10 3v9m-3.5-3.5L10 12l3.5-3.5M4 15.5h12",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  again: "M15.5 6.5A6.5 6.5 0 1 0 16.5 11M16 3v4h-4",
  edit: "M4 16l1-4 8.5-8.5 3 3L8 15zM12 5l3 3",
  compare: "M10 3v14M3.5 5H8v10H3.5zM12 5h4.5v10H12z",
  remove: "M4 6h12M8 6V4h4v2M6 6l.8 10h6.4L14 6",
  dice: "M4 4h12v12H4zM7.5 7.5h.01M12.5 7.5h.01M10 10h.01M7.5 12.5h.01M12.5 12.5h.01",
  close: "M5 5l10 10M15 5L5 15",
  brush: "M16 4l-7 7M9 11c-2 0-3 1.5-3 3 0 1-.8 1.8-2 2 3 1 6.5 0 6.5-3z",
  eraser: "M8.5 16h8M4 12.500L11.5 5l4 4L9 15.500H6.500z",
  undo: "M7 4L3.5 7.5 7 11M4 7.500h7.500a4.5 4.5 0 0 1 0 9H8",
  add: "M10 4v12M4 10h12",
  live: "M11 2.500L4.5 11.500H9.500L9 17.5 15.5 8.500H10.500z",
  search: "M9 3.500a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM13 13l4 4",
  help: "M10 2.500a7.5 7.5 0 1 0 0 15 7.5 7.5 0 0 0 0-15zM7.8 8a2.2 2.2 0 1 1 3.2 2c-.7.4-1 .8-1 1.500M10 13.800h.01",
  open: "M3 5h5l2 2h7v9H3z",
};

export type IconName = keyof typeof PATHS;

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 20 20" aria-hidden="true">
    <path d={PATHS[name]} />
  </svg>
);
