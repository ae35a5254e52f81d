"""How the report of a replay looks: on a screen, in the dark and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d1f23; --soft: #5c626b; --paper: #ffffff; --card: #f5f6f8; --line: #d9dce1;
  --warn: #7a3b00; --warn-back: #ffe9c7; --bad: #8f1d1d; --bad-back: #fde2e0;
  --good: #14532d; --good-back: #dcf3e2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8e9ec; --soft: #a3a9b3; --paper: #15171b; --card: #1f2228; --line: #373c45;
    --warn: #ffd592; --warn-back: #4a2f05; --bad: #ffb4ad; --bad-back: #551a1a;
    --good: #a8e6bd; --good-back: #123822;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 12px; }
h2 { font-size: 20px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 26px 0 8px; }
h1, h2, h3, li, td, th, figcaption, p { overflow-wrap: anywhere; }
p, ul { margin: 8px 0; max-width: 90ch; }
ul { padding-left: 22px; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); padding: 10px;
  border-radius: 6px; }
.banner { padding: 10px 14px; border-radius: 6px; font-weight: 600; max-width: none; }
.warn { background: var(--warn-back); color: var(--warn); }
.bad { background: var(--bad-back); color: var(--bad); }
.good { background: var(--good-back); color: var(--good); }
.none, figcaption, .note { color: var(--soft); font-size: 13.5px; }
.wide { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { background: var(--card); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
.words th, .words td:first-child { overflow-wrap: normal; }
.figures { font-size: 13px; }
.figures th, .figures td { padding: 4px 6px; }
.figures tbody th { min-width: 12.5em; }
.figures td, .figures thead th { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.figures thead th[colspan] { text-align: center; }
.figures thead th:first-child { text-align: left; }
.figures thead tr + tr th:first-child { text-align: right; }
.figures td.start { border-left: 1px solid var(--line); }
.pairs th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.chip { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px;
  border: 1px solid var(--soft); }
figure { margin: 12px 0 22px; }
figcaption { margin-top: 5px; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px;
  background: #ffffff; }
.strip td, .strip thead th { min-width: 150px; border-bottom: none; }
.strip figure { margin: 0; }
.strip img { width: 224px; border-radius: 3px; }
.strip tbody th { min-width: 8em; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; font-size: 13.5px; }
dt { font-weight: 600; } dd { margin: 0; }
@media (max-width: 700px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } }
@media print {
  :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --card: #f0f0f0; --line: #bbbbbb;
    --warn: #000000; --warn-back: #ffffff; --bad: #000000; --bad-back: #ffffff;
    --good: #000000; --good-back: #ffffff; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .banner { border: 2px solid #000000; }
  .chip { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .wide { overflow: visible; }
  table, .figures, code, pre { font-size: 7.5pt; }
  th, td, .figures th, .figures td { padding: 2px 4px; }
  .figures tbody th { min-width: 0; }
  dl { font-size: 8pt; gap: 0 16px; }
  .strip img { width: 110px; }
  .strip td, .strip thead th { min-width: 0; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""
